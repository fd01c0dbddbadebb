#!/bin/sh
# Renews requirements/debian-ARCHITECTURE.txt: the Debian packages of a release's image, as Debian serves them today.
# ARCH is Debian's name of the processor; deploy/base-image.sh says more.
set -eu

cd "$(dirname "$0")/../.."
out=requirements/debian-${ARCH:-$(dpkg --print-architecture)}.txt
new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
deploy/base-image.sh "$new/base.tar" linkwire
{
    echo "# Written by \`make lock-base\` of $(date -u +%Y-%m-%d): the Debian packages of a release's image. docs/decisions/0046-supply-chain.md"
    cat "$new/base.tar.packages"
} >"$new/lock.txt"
mv "$new/lock.txt" "$out"
