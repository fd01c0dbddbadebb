#!/bin/sh
# Renews the lock: requirements/*.txt, every package that Linkwire is built, run and tested with, by version and hash.
#
#   deploy/lock.sh PYTHON
#
# PYTHON has the `uv` of requirements/lock.txt. The newest versions that pyproject.toml allows are taken, for Python 3.11
# and later on Linux. No address of a registry is written: pip asks the one that its user has configured.
set -eu

die() { echo "lock: $*" >&2; exit 1; }

[ $# -eq 1 ] || die "usage: lock.sh PYTHON"
python=$1
cd "$(dirname "$0")/.."
"$python" -c 'import uv' 2>/dev/null || die "$python has no uv: pip install --require-hashes -r requirements/lock.txt"

new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

compile() { # OUT ARGUMENT...
    out=$1
    shift
    "$python" -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade \
        --no-emit-index-url --no-emit-find-links --no-header --no-annotate --output-file "$new/$out.body" "$@"
    { echo "# Written by \`make lock\` from pyproject.toml: docs/decisions/0030-locked-dependencies.md"; cat "$new/$out.body"; } \
        >"$new/$out"
    rm "$new/$out.body"
}

# pip builds what has no wheel, and the project itself, with these.
"$python" -c 'import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], "wheel", sep="\n")' >"$new/build.in"
compile build.txt "$new/build.in"
compile product.txt pyproject.toml
"$python" -c 'import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["tool"]["linkwire"]["plugin"], sep="\n")' >"$new/plugin.in"
compile plugin.txt "$new/plugin.in" --constraint "$new/product.txt"
compile test.txt pyproject.toml --extra dev --constraint "$new/product.txt"
compile lock.txt pyproject.toml --extra lock --constraint "$new/product.txt"
compile fuzz.txt pyproject.toml --extra fuzz --constraint "$new/product.txt"
rm "$new/build.in" "$new/plugin.in"
# uv alone: the product is not installed where the lock is made.
"$python" - "$new/lock.txt" <<'END'
import pathlib, re, sys
path = pathlib.Path(sys.argv[1])
head, *entries = re.split(r"(?m)^(?=[a-z0-9])", path.read_text())
path.write_text(head + "".join(entry for entry in entries if entry.startswith("uv==")))
END
mkdir -p requirements
mv "$new"/*.txt requirements/
