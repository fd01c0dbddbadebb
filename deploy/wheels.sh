#!/bin/sh
# Fills a folder with wheels of everything Linkwire depends on, for an image build without a network.
#
#   deploy/wheels.sh FOLDER [PYTHON]
#
# PYTHON (default python3) must be of the version that the image has: 3.11 on Debian 12. Does nothing when the
# folder was made for the same dependencies already.
set -eu

die() { echo "wheels: $*" >&2; exit 1; }

[ $# -ge 1 ] && [ $# -le 2 ] || die "usage: wheels.sh FOLDER [PYTHON]"
out=$1
python=${2:-python3}
project=$(dirname "$0")/../pyproject.toml

wanted=$("$python" - "$project" <<'END'
import pathlib, sys, tomllib
tables = tomllib.loads(pathlib.Path(sys.argv[1]).read_text())
if sys.version_info[:2] != (3, 11):
    sys.exit(f"wheels: made for Debian 12, which has Python 3.11; this is {sys.version.split()[0]}")
print("\n".join(tables["project"]["dependencies"] + tables["build-system"]["requires"]))
END
)
[ "$(cat "$out/wanted.txt" 2>/dev/null)" = "$wanted" ] && exit 0

rm -rf "$out.new"
mkdir -p "$out.new"
trap 'rm -rf "$out.new"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
echo "$wanted" >"$out.new/wanted.txt"
"$python" -m pip wheel --quiet --no-cache-dir --wheel-dir "$out.new" --requirement "$out.new/wanted.txt"
rm -rf "$out"
mv "$out.new" "$out"
