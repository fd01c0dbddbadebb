#!/bin/sh
# Makes a root file system to `docker import`, for where no image registry can be reached.
#
#   deploy/base-image.sh OUT.tar [KIND]
#
#   linkwire  Debian 12 with what the image of controller and agent needs (the default): BASE of deploy/Dockerfile
#   demo      Debian 12 with the programs of deploy/examples
#   busybox   busybox alone
#
# Needs root, mmdebstrap and a Debian mirror (MIRROR, default deb.debian.org). Does nothing when OUT.tar was made
# from the same inputs already.
set -eu

LINKWIRE="ca-certificates etcd-server iproute2 nftables python3 python3-venv wireguard-go wireguard-tools"
DEMO="busybox-static ca-certificates curl iperf3 iproute2 iputils-ping nftables nginx-light python3 python3-redis redis-server wget"

die() { echo "base-image: $*" >&2; exit 1; }

[ $# -ge 1 ] && [ $# -le 2 ] || die "usage: base-image.sh OUT.tar [linkwire|demo|busybox]"
out=$1
kind=${2:-linkwire}
case $kind in
linkwire) packages=$LINKWIRE ;;
demo) packages=$DEMO ;;
busybox) packages= ;;
*) die "there is no kind '$kind'; the kinds are: linkwire, demo, busybox" ;;
esac

inputs=$(cat "$0" - <<END | sha256sum
$kind ${MIRROR:-} $(dpkg --print-architecture)
END
)
[ -e "$out" ] && [ "$(cat "$out.inputs" 2>/dev/null)" = "$inputs" ] && exit 0
rm -f "$out.inputs"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

if [ "$kind" = busybox ]; then
    mkdir -p "$work/root/bin" "$work/root/etc" "$work/root/tmp"
    cp /bin/busybox "$work/root/bin/busybox"
    for applet in $(/bin/busybox --list); do
        [ "$applet" = busybox ] || ln -s busybox "$work/root/bin/$applet"
    done
    echo 'root:x:0:0:root:/:/bin/sh' >"$work/root/etc/passwd"
    echo 'root:x:0:' >"$work/root/etc/group"
    chmod 1777 "$work/root/tmp"
    tar -C "$work/root" --numeric-owner --owner=0 --group=0 -cf "$work/image.tar" .
else
    # shellcheck disable=SC2086 # MIRROR is one word or none
    mmdebstrap --quiet --variant=minbase --include="$packages" \
        --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        bookworm "$work/image.tar" ${MIRROR:-} >"$work/log" 2>&1 || { cat "$work/log" >&2; die "mmdebstrap failed"; }
fi
# The name appears only when the whole file is there.
mv "$work/image.tar" "$out.new"
mv "$out.new" "$out"
echo "$inputs" >"$out.inputs"
