#!/bin/sh
# Runs the unit and store suites on arm64: Debian 12's own Python and etcd for it, in a root of their own, by QEMU.
#
#   deploy/emulate-arm64.sh deploy/test-arm64.sh PYTHON [PYTEST_OPTION...]
#
# PYTHON is 3.11 with what requirements/build.txt names. TESTS (default "tests/unit tests/store") narrows it. The root is
# build/arm64/root, made again when its inputs change; the tests have a copy of the tree there. LINKWIRE_SLOWNESS (default 10; 1
# where nothing is emulated) is how many times longer they wait for what has to come. tests/support/emulation.py names the
# tests that QEMU cannot run. Exits as pytest does, and leaves no mount and no process.
set -eu

die() { echo "test-arm64: $*" >&2; exit 1; }

[ $# -ge 1 ] || die "usage: test-arm64.sh PYTHON [PYTEST_OPTION...]"
python=$1
shift
case $python in */*) python=$(realpath -s "$python") ;; esac
cd "$(dirname "$0")/.."
home=build/arm64
root=$home/root
mkdir -p "$home"
exec 9>"$home/lock"
flock -n 9 || die "another run uses $root"

[ -e "$home/root.tar" ] || echo "making Debian 12 for arm64: its packages are set up by QEMU, which takes some ten minutes"
ARCH=arm64 deploy/base-image.sh "$home/root.tar" tests
if ! cmp -s "$home/root.tar.inputs" "$home/unpacked"; then
    rm -rf "$root" "$home/unpacked" "$home/installed"
    mkdir "$root"
    tar -C "$root" -xf "$home/root.tar" --exclude='./dev/*'
    cp "$home/root.tar.inputs" "$home/unpacked"
fi

# The wheels come by this machine's pip, which has the way to the registry; its hashes are checked once more there.
wanted=$(cat requirements/build.txt requirements/test.txt | sha256sum)
if [ "$(cat "$home/installed" 2>/dev/null)" != "$wanted" ]; then
    echo "installing requirements/test.txt for arm64"
    rm -rf "$home/installed" "$root/wheels" "$root/venv"
    platforms=$(for glibc in 17 24 26 28 31 34 35 36; do echo "--platform=manylinux_2_${glibc}_aarch64"; done)
    # shellcheck disable=SC2086 # one word for each platform
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --no-build-isolation --require-hashes \
        --implementation=cp --python-version=3.11 --abi=cp311 --abi=abi3 --abi=none \
        --platform=manylinux2014_aarch64 $platforms --dest "$root/wheels" \
        --requirement requirements/build.txt --requirement requirements/test.txt
    cp requirements/build.txt requirements/test.txt "$root/wheels"
    chroot "$root" /usr/bin/env -i PATH=/usr/bin:/bin sh -euc '
        python3 -m venv /venv
        install="/venv/bin/pip install --quiet --disable-pip-version-check --no-deps --no-index --find-links=/wheels --require-hashes"
        $install -r /wheels/build.txt
        $install --no-build-isolation -r /wheels/test.txt'
    rm -rf "$root/wheels"
    echo "$wanted" >"$home/installed"
fi

# What the tree has that git does not ignore, and git's own folder, which some tests ask.
rm -rf "$root/src"
mkdir "$root/src"
git ls-files -z --cached --others --exclude-standard | xargs -0 sh -c 'for f; do [ ! -e "$f" ] || printf "%s\0" "$f"; done' sh |
    tar --null --files-from=- -cf - | tar -C "$root/src" -xf -
git clone --quiet --no-checkout --no-hardlinks . "$root/src/.git-clone" && mv "$root/src/.git-clone/.git" "$root/src/.git"
rmdir "$root/src/.git-clone"
git -C "$root/src" reset --quiet
chroot "$root" /usr/bin/env -i PATH=/usr/bin:/bin sh -euc '
    /venv/bin/pip install --quiet --disable-pip-version-check --no-deps --no-index --no-build-isolation \
        --config-settings editable_mode=compat --root-user-action=ignore --editable /src'

if [ "$(uname -m)" != aarch64 ]; then
    LINKWIRE_EMULATED=qemu-user
    : "${LINKWIRE_SLOWNESS:=10}"
    export LINKWIRE_EMULATED LINKWIRE_SLOWNESS
fi
# Mounts and processes end with the namespaces that they are in, whose first process is a shell: it reaps orphans.
# shellcheck disable=SC2016,SC2086 # for the inner shells; one word for each suite
unshare --mount --pid --fork --kill-child sh -euc '
    root=$1
    shift
    mount -t proc proc "$root/proc"
    mount -t sysfs -o ro sysfs "$root/sys"
    mount --rbind /dev "$root/dev"
    for each in $(env | sed -n "s/^\(LINKWIRE_[A-Z_]*\)=.*/\1/p"); do
        eval "value=\$$each"
        set -- "$each=$value" "$@"
    done
    path=/venv/bin:/usr/sbin:/usr/bin:/sbin:/bin
    chroot "$root" /usr/bin/env -i PATH="$path" HOME=/root LANG=C.UTF-8 "$@" || exit $?
' sh "$root" sh -euc '
    cd /src
    exec python -m pytest -p no:cacheprovider -rs "$@"
' sh "$@" ${TESTS:-tests/unit tests/store} &
inside=$!
trap 'kill -KILL $inside 2>/dev/null; exit 143' TERM HUP
trap 'kill -KILL $inside 2>/dev/null; exit 130' INT
wait "$inside"
