#!/bin/sh
# Lists a release's files with their SHA-256 in SHA256SUMS, and signs that list with a minisign key.
#
#   deploy/release/sign.sh FOLDER VERSION COMMIT KEY
#
# KEY is the secret key's file, made with `minisign -G` and kept by whoever releases; minisign asks for its password.
# Version and commit stand in the signature's trusted comment, so that an older release cannot be passed off as this one.
set -eu

die() { echo "release: $*" >&2; exit 1; }

[ $# -eq 4 ] || die "usage: sign.sh FOLDER VERSION COMMIT KEY"
version=$2
commit=$3
key=$(realpath -e "$4") || die "there is no key $4: make one with minisign -G, or give KEY=FILE"
cd "$1"
rm -f SHA256SUMS SHA256SUMS.minisig
files=$(LC_ALL=C ls)
[ -n "$files" ] || die "$1 is empty"
# shellcheck disable=SC2086 # a release's names have no spaces: verify.sh refuses others
sha256sum $files >SHA256SUMS
minisign -S -s "$key" -m SHA256SUMS -x SHA256SUMS.minisig -t "linkwire $version $commit" >/dev/null ||
    die "minisign did not sign: the files are in $PWD. Sign them with deploy/release/sign.sh"
