#!/bin/sh
# Makes a root file system to `docker import`, for where no image registry can be reached.
#
#   deploy/base-image.sh OUT.tar [KIND]
#
#   linkwire  Debian 12 with what the image of controller and agent needs (the default): BASE of deploy/Dockerfile
#   demo      Debian 12 with the programs of deploy/examples
#   busybox   busybox alone
#   tests     Debian 12 with the programs of the unit and store suites, for deploy/test-arm64.sh
#
# ARCH is Debian's name of the processor that it is for, by default this machine's. For another one the kernel must run that
# one's programs meanwhile: deploy/emulate-arm64.sh.
#
# Needs root, mmdebstrap and a Debian mirror (MIRROR, default deb.debian.org; it may be a file as sources.list is one, so
# that a dated snapshot can be named). Does nothing when OUT.tar was made from the same inputs already.
#
# From the same packages the file is the same, byte by byte. OUT.tar.packages names them, as requirements/debian-*.txt
# does for a release: name, version, architecture and the SHA-256 that Debian's signed index has and apt has checked.
set -eu

LINKWIRE="ca-certificates etcd-server iproute2 nftables python3 python3-venv wireguard-go wireguard-tools"
DEMO="busybox-static ca-certificates caddy curl iperf3 iproute2 iputils-ping nftables nginx-light python3 python3-redis redis-server wget"

TESTS="$LINKWIRE etcd-client gcc git libc6-dev openssl procps util-linux"

die() { echo "base-image: $*" >&2; exit 1; }

[ $# -ge 1 ] && [ $# -le 2 ] || die "usage: base-image.sh OUT.tar [linkwire|demo|busybox|tests]"
out=$1
kind=${2:-linkwire}
case $kind in
linkwire) packages=$LINKWIRE ;;
demo) packages=$DEMO ;;
busybox) packages= ;;
tests) packages=$TESTS ;;
*) die "there is no kind '$kind'; the kinds are: linkwire, demo, busybox, tests" ;;
esac
machine=$(dpkg --print-architecture)
architecture=${ARCH:-$machine}
[ "$kind" != busybox ] || [ "$architecture" = "$machine" ] || die "busybox is this machine's own: it cannot be for $architecture"

# No file is newer than the lock of a release; any fixed time would do.
lock=$(dirname "$0")/../requirements/debian-$architecture.txt
made=$(sed -n '1s/.* of \([0-9-]*\):.*/\1/p' "$lock" 2>/dev/null || true)
SOURCE_DATE_EPOCH=$(date -u -d "${made:-2026-11-01}" +%s)
export SOURCE_DATE_EPOCH

inputs=$(cat "$0" - <<END | sha256sum
$kind ${MIRROR:-} $architecture $SOURCE_DATE_EPOCH
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
    cat >"$work/list-packages" <<'END'
#!/bin/sh
set -eu
installed=$(chroot "$1" dpkg-query -W -f='${Package}=${Version} ')
# shellcheck disable=SC2086 # one word for each package
chroot "$1" apt-cache show $installed >"$0.index"
awk '/^Package: / { name = $2 } /^Version: / { version = $2 } /^Architecture: / { architecture = $2 }
    /^SHA256: / { print name, version, architecture, "sha256:" $2 }' "$0.index" | LC_ALL=C sort -u >"$0.txt"
# Whatever they came from: the image does not tell the builder's mirror.
rm -f "$1"/etc/apt/sources.list.d/*
printf 'deb http://%s main\n' deb.debian.org/debian\ bookworm deb.debian.org/debian\ bookworm-updates \
    security.debian.org/debian-security\ bookworm-security >"$1/etc/apt/sources.list"
END
    chmod 755 "$work/list-packages"
    # shellcheck disable=SC2086 # MIRROR is one word or none
    mmdebstrap --quiet --architectures="$architecture" --variant=minbase --include="$packages" \
        --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        --customize-hook="$work/list-packages" \
        bookworm "$work/image.tar" ${MIRROR:-} >"$work/log" 2>&1 || { cat "$work/log" >&2; die "mmdebstrap failed"; }
fi
[ "$kind" = busybox ] || mv "$work/list-packages.txt" "$out.packages"
# The name appears only when the whole file is there.
mv "$work/image.tar" "$out.new"
mv "$out.new" "$out"
echo "$inputs" >"$out.inputs"
