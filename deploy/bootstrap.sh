#!/bin/sh
# Installs what Linkwire's lab and tests need and this Debian 12 machine lacks, by apt, as root.
#
#   deploy/bootstrap.sh [GROUP...]      groups: lab (the default), kernel, resolvers, metrics, plugin, release, ui, arm64
#
# Nothing is started: services are denied while packages are set up, so a Docker that the machine already
# runs is not touched and one that is installed here stays stopped. Running it again does nothing, quickly.
set -eu

# One line per thing: the path (a glob; several with spaces, any will do) that shows it is there, then its package.
LAB="
/usr/bin/dockerd:/usr/sbin/dockerd docker.io
/usr/bin/docker docker.io
/usr/bin/etcd etcd-server
/usr/bin/etcdctl etcd-client
/usr/bin/docker-registry docker-registry
/usr/bin/wg wireguard-tools
/usr/bin/wireguard-go wireguard-go
/usr/sbin/nft nftables
/usr/sbin/iptables iptables
/usr/sbin/ip:/usr/bin/ip:/sbin/ip iproute2
/usr/bin/nsenter util-linux
/usr/bin/tcpdump:/usr/sbin/tcpdump tcpdump
/usr/bin/mmdebstrap mmdebstrap
/usr/share/doc/busybox-static busybox-static
/usr/bin/ping:/bin/ping iputils-ping
/usr/bin/cc gcc
/usr/include/time.h libc6-dev
/usr/bin/openssl openssl
/usr/bin/curl curl
/usr/bin/make make
/usr/bin/git git
/usr/bin/python3 python3
/usr/lib/python3*/ensurepip python3-venv
/etc/ssl/certs/ca-certificates.crt ca-certificates
"
RESOLVERS="
/usr/bin/dig bind9-dnsutils
/usr/sbin/haproxy haproxy
/usr/sbin/nginx nginx-light
/usr/bin/node:/usr/local/bin/node nodejs
/usr/bin/musl-gcc musl-tools
"
# promtool checks what deploy/ has for Prometheus; a Prometheus of a test's own asks the programs.
METRICS="
/usr/bin/promtool prometheus
/usr/bin/prometheus prometheus
"
KERNEL="
/usr/bin/qemu-system-x86_64 qemu-system-x86
/usr/lib/qemu/virtiofsd qemu-system-common
/usr/share/doc/busybox-static busybox-static
/usr/bin/wg wireguard-tools
/usr/sbin/nft nftables
/usr/sbin/ip:/usr/bin/ip:/sbin/ip iproute2
/usr/bin/ping:/bin/ping iputils-ping
/usr/bin/cpio:/bin/cpio cpio
"

PLUGIN="
/usr/bin/python3 python3
/usr/lib/python3*/ensurepip python3-venv
/etc/ssl/certs/ca-certificates.crt ca-certificates
"
RELEASE="
/usr/bin/minisign minisign
/usr/bin/git git
/usr/bin/mmdebstrap mmdebstrap
/usr/bin/docker docker.io
/usr/bin/python3 python3
/usr/lib/python3*/ensurepip python3-venv
/etc/ssl/certs/ca-certificates.crt ca-certificates
"
UI="
/usr/bin/chromium chromium
/usr/bin/chromedriver chromium-driver
"
# Runs another processor's programs; arch-test tells mmdebstrap that it does.
ARM64="
/usr/bin/qemu-aarch64-static qemu-user-static
/usr/bin/arch-test arch-test
/usr/bin/mmdebstrap mmdebstrap
/usr/bin/unshare util-linux
/usr/bin/git git
"

die() { echo "bootstrap: $*" >&2; exit 1; }

present() { # PATHS separated by colons, each may be a glob
    old_ifs=$IFS
    IFS=:
    for pattern in $1; do
        for path in $pattern; do
            if [ -e "$path" ]; then
                IFS=$old_ifs
                return 0
            fi
        done
    done
    IFS=$old_ifs
    return 1
}

wanted=""
[ $# -gt 0 ] || set -- lab
for group in "$@"; do
    case $group in
    lab) wanted="$wanted$LAB" ;;
    kernel) wanted="$wanted$KERNEL" ;;
    resolvers) wanted="$wanted$RESOLVERS" ;;
    metrics) wanted="$wanted$METRICS" ;;
    plugin) wanted="$wanted$PLUGIN" ;;
    release) wanted="$wanted$RELEASE" ;;
    ui) wanted="$wanted$UI" ;;
    arm64) wanted="$wanted$ARM64" ;;
    *) die "there is no group '$group'; the groups are: lab, kernel, resolvers, metrics, plugin, release, ui, arm64" ;;
    esac
done

missing=""
while read -r paths package; do
    if [ -n "$paths" ] && ! present "$paths"; then
        case " $missing " in *" $package "*) ;; *) missing="$missing $package" ;; esac
    fi
done <<END
$wanted
END
[ -n "$missing" ] || exit 0

[ "$(id -u)" = 0 ] || die "missing:$missing. Run this as root to install them"
command -v apt-get >/dev/null || die "missing:$missing. There is no apt-get here: install them by hand"

policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\n# Placed by bootstrap.sh while it installs.\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
else
    # The machine's own policy decides; ours must still hold, so ask it what it would answer.
    "$policy" docker start >/dev/null 2>&1 &&
        die "$policy is there and lets services start; move it away, so that nothing is started while installing"
fi

for package in $missing; do
    echo "installing $package"
done
log=$(mktemp)
install_missing() {
    # shellcheck disable=SC2086 # one word for each package
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -q --no-install-recommends $missing </dev/null >"$log" 2>&1
}
if ! install_missing; then
    # The usual cause on a fresh machine: no package lists yet, or stale ones.
    apt-get update -q </dev/null >>"$log" 2>&1 || { cat "$log" >&2; rm -f "$log"; die "apt-get update failed"; }
    install_missing || { cat "$log" >&2; rm -f "$log"; die "apt-get install failed"; }
fi
rm -f "$log"
