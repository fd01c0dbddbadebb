#!/bin/sh
# PID 1 of the guest. Puts the host's root, read-only under an overlay in memory, at /new; runs the exchange folder's
# `command` there; sends its output and at last its exit code to the host. Lives in the initramfs, with busybox.
/bin/busybox --install -s /bin
export PATH=/bin
# BOOT_MODULES, MODULES (the kernel's module tree on the host), EXCHANGE (a folder in the guest), TOKEN (see port.py)
. /config

fail() {
    echo "guest init: $*"
    poweroff -f
}

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in $BOOT_MODULES; do
    modprobe "$module" || fail "no module $module"
done

mount -t virtiofs -o ro root /host || fail "the host's root does not mount"
mount -t tmpfs -o mode=755,size=75% scratch /scratch
mkdir /scratch/upper /scratch/work
mount -t overlay -o lowerdir=/host,upperdir=/scratch/upper,workdir=/scratch/work overlay /new ||
    fail "the overlay does not mount"

mount -t proc proc /new/proc
mount -t sysfs sysfs /new/sys
mount -t cgroup2 cgroup2 /new/sys/fs/cgroup
mount -t devtmpfs devtmpfs /new/dev
mkdir -p /new/dev/pts /new/dev/shm
mount -t devpts devpts /new/dev/pts
mount -t tmpfs shm /new/dev/shm
ln -sfn /proc/self/fd /new/dev/fd
for name in stdin:0 stdout:1 stderr:2; do
    ln -s "/proc/self/fd/${name#*:}" "/new/dev/${name%:*}"
done
mount -t tmpfs -o mode=755 run /new/run # the host's own sockets and namespaces are not the guest's
mkdir -p "/new$EXCHANGE"
mount -t virtiofs exchange "/new$EXCHANGE" || fail "the exchange folder does not mount"

# The kernel calls its modprobe in this root, not in /new: from here on busybox finds every module in the host's tree,
# so that `ip link add type wireguard` loads what it needs. The same tree and modprobe serve the command in /new (kmod
# does not read busybox's modules.dep).
tree="/lib/modules/$(uname -r)"
mount --bind "/host$MODULES" "$tree" || fail "no module tree at $MODULES"
mkdir -p "/new$tree" /sbin
mount --bind "/host$MODULES" "/new$tree"
ln -sf /bin/busybox /sbin/modprobe
rm -f /new/sbin/modprobe
cp /bin/busybox /new/sbin/modprobe
modprobe tun # nothing else makes /dev/net/tun, where there is no udev
modprobe aesni_intel

ip link set lo up
sysctl -q -w kernel.printk="3 4 1 3"

port=
until [ -n "$port" ]; do
    for name in /dev/vport*p1; do
        [ -c "$name" ] && port="$name"
    done
done
: >"/new$EXCHANGE/started"
# As on any machine the root of the command's mount namespace is /new, so that nsenter and `docker exec` land there, and its
# mounts are shared. Init itself, whose root is below it, stays in the initramfs.
cd /new
mount --move . /
chroot . /bin/sh -c '
mount --make-rshared /
/bin/sh "$0/command" </dev/null
code=$?
umount "$0" || sync # whoever still runs may still use it
exit $code' "$EXCHANGE" >"$port" 2>&1
code=$?
printf '\0%s %d\0' "$TOKEN" "$code" >"$port"
# The host stops QEMU when it has read that; a guest that switched itself off could take it along, unread.
while :; do
    sleep 60
done
