#!/bin/sh
# Fills a folder with everything of requirements/*.txt that the image is made of, for a build without a network.
#
#   deploy/wheels.sh FOLDER [PYTHON]
#
# PYTHON (default python3) must be of the version that the image has, 3.11 on Debian 12, and have setuptools
# (requirements/build.txt). MACHINE (by default this one's) is the processor's name in wheels. Does nothing when the folder was
# made from the same lock for it already.
set -eu

die() { echo "wheels: $*" >&2; exit 1; }

[ $# -ge 1 ] && [ $# -le 2 ] || die "usage: wheels.sh FOLDER [PYTHON]"
out=$1
python=${2:-python3}
locks=$(dirname "$0")/../requirements

"$python" -c 'import sys
sys.version_info[:2] == (3, 11) or sys.exit(f"wheels: made for Debian 12, which has Python 3.11; this is {sys.version}")'
machine=${MACHINE:-$(uname -m)}
wanted=$(cat "$locks/build.txt" "$locks/product.txt" | sha256sum)$machine
[ "$(cat "$out/wanted.txt" 2>/dev/null)" = "$wanted" ] && exit 0

rm -rf "$out.new"
mkdir -p "$out.new"
trap 'rm -rf "$out.new"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
echo "$wanted" >"$out.new/wanted.txt"
# Of Debian 12's glibc (2.36) and older ones.
platforms=$(for glibc in 2014 _2_17 _2_24 _2_26 _2_27 _2_28 _2_31 _2_34 _2_35 _2_36; do echo "--platform=manylinux${glibc}_$machine"; done)
# Archives as they were published, so that the image's build checks their hashes once more.
# shellcheck disable=SC2086 # one word for each platform
"$python" -m pip download --quiet --no-cache-dir --no-deps --no-build-isolation --require-hashes --dest "$out.new" \
    --implementation=cp --python-version=3.11 --abi=cp311 --abi=abi3 --abi=none $platforms \
    --requirement "$locks/build.txt" --requirement "$locks/product.txt"
rm -rf "$out"
mv "$out.new" "$out"
