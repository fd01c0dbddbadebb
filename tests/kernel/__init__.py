"""Runs our tests on a real Debian kernel with WireGuard, in QEMU, on machines whose own kernel may have none.

    python -m tests.kernel -- wg --version        any command; --help tells the rest
    python -m tests.kernel pytest tests/netns     the project's pytest
    pytest tests/kernel                           what the whole suite does: test_kernel.py boots the guests

Needs `deploy/bootstrap.sh kernel` (QEMU, virtiofsd, a static busybox, cpio), apt and root, but no KVM. The kernel is
Debian's package, kept in build/kernel or where LINKWIRE_KERNEL_CACHE says. The processor is emulated: a program runs
about 13 times slower than outside, so times measured in the guest mean something only as ratios.
"""
