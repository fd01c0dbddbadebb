#!/bin/sh
# Verifies a release: its signature, its version, and that its files are those that were signed, all and no others.
#
#   deploy/release/verify.sh FOLDER PUBKEY [VERSION]
#
# PUBKEY is the file with minisign's public key. Get it on another way than the files. Needs minisign and coreutils only.
set -eu

die() { echo "verify: $*" >&2; exit 1; }

[ $# -ge 2 ] && [ $# -le 3 ] || die "usage: verify.sh FOLDER PUBKEY [VERSION]"
command -v minisign >/dev/null || die "there is no minisign here: apt-get install minisign"
[ -f "$2" ] || die "there is no public key $2"
key=$(realpath "$2")
wanted=${3:-}
cd "$1"
for file in SHA256SUMS SHA256SUMS.minisig; do
    [ -f "$file" ] || die "$1 has no $file: it is no release, or not a whole one"
done

comment=$(minisign -Q -V -p "$key" -m SHA256SUMS -x SHA256SUMS.minisig) ||
    die "the signature of SHA256SUMS is not one of this key: trust none of these files"
# shellcheck disable=SC2086 # three words
set -- $comment
[ $# -eq 3 ] && [ "$1" = linkwire ] || die "this key signed something else than a release of Linkwire: $comment"
[ -z "$wanted" ] || [ "$2" = "$wanted" ] || die "these files are version $2, not $wanted"
version=$2
commit=$3

! grep -qvE '^[0-9a-f]{64}  [A-Za-z0-9_][A-Za-z0-9._+-]*$' SHA256SUMS || die "SHA256SUMS has a line that is no file of this folder"
sha256sum --check --strict --quiet SHA256SUMS >&2 || die "a file is not the one that was signed, see above: do not use it"
for file in * .[!.]*; do
    case $file in SHA256SUMS | SHA256SUMS.minisig | '.[!.]*') continue ;; esac
    cut -c 67- SHA256SUMS | grep -qxF -- "$file" || die "nobody signed $file: take it out of the folder"
done
echo "Linkwire $version, commit $commit: the signature is good and every file is as it was signed"
