#!/bin/sh
# Runs a command while this machine's kernel starts arm64 programs by QEMU, in a chroot and in a container too.
#
#   deploy/emulate-arm64.sh COMMAND [ARGUMENT...]
#
# Needs root and `deploy/bootstrap.sh arm64`. The kernel learns it from binfmt_misc and forgets it when the command ends;
# what the machine has registered itself is left as it is. An arm64 machine needs none of this.
set -eu

die() { echo "emulate-arm64: $*" >&2; exit 1; }

[ $# -ge 1 ] || die "usage: emulate-arm64.sh COMMAND [ARGUMENT...]"
[ "$(uname -m)" != aarch64 ] || exec "$@"
qemu=/usr/bin/qemu-aarch64-static
[ -x "$qemu" ] || die "there is no $qemu: run deploy/bootstrap.sh arm64"
[ "$(id -u)" = 0 ] || die "run this as root: it tells the kernel about arm64 programs"

# A mount namespace of its own: no mount stays, however this ends.
if [ "${LINKWIRE_EMULATES:-}" != "$PPID-$$" ]; then
    # shellcheck disable=SC2016 # for the inner shell
    exec unshare --mount sh -c 'LINKWIRE_EMULATES="$PPID-$$"; export LINKWIRE_EMULATES; exec "$@"' sh "$0" "$@"
fi
unset LINKWIRE_EMULATES
table=/proc/sys/fs/binfmt_misc
mount -t binfmt_misc binfmt_misc "$table" 2>/dev/null || [ -e "$table/register" ] ||
    die "this kernel has no binfmt_misc, by which it would start arm64 programs (modprobe binfmt_misc)"

# An entry of a run that was killed.
for entry in "$table"/linkwire-arm64-*; do
    [ -e "$entry" ] || continue
    [ -e "/proc/${entry##*-}" ] || echo -1 >"$entry"
done

name=linkwire-arm64-$$
forget() { [ ! -e "$table/$name" ] || echo -1 >"$table/$name"; }
trap forget EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
# The head of an ELF file of that processor (linux/elf-em.h: 183). F opens QEMU now, so that no root needs to have it; O and
# C hand it the open program and that program's rights; P keeps its name.
head='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
printf '%s' ":$name:M::$head:$mask:$qemu:POCF" >"$table/register" || die "the kernel refuses to register $qemu"
# In the background, so that a signal is heeded at once; with the terminal, of which minisign asks a password.
exec 3<&0
"$@" <&3 3<&- &
command=$!
end() { kill -TERM "$command" 2>/dev/null || true; wait "$command" || true; }
trap 'end; exit 143' TERM HUP
trap 'end; exit 130' INT
wait "$command"
