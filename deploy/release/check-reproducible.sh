#!/bin/sh
# Makes a release's files twice, the base image too, and compares them byte by byte.
#
#   deploy/release/check-reproducible.sh PYTHON
#
# PYTHON has what requirements/build.txt names. Nothing is signed. Leaves the files of both in build/reproducible.
set -eu

[ $# -eq 1 ] || { echo "usage: check-reproducible.sh PYTHON" >&2; exit 1; }
cd "$(dirname "$0")/../.."
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
rm -rf build/reproducible
for turn in 1 2; do
    rm -f build/release-base-*.tar*
    "$1" deploy/release/make.py "$version" - "build/reproducible/$turn"
done
if ! diff build/reproducible/1/SHA256SUMS build/reproducible/2/SHA256SUMS; then
    echo "check-reproducible: these files differ" >&2
    exit 1
fi
echo "the same twice:"
cat build/reproducible/1/SHA256SUMS
