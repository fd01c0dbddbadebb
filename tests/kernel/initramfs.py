"""The guest's initramfs: busybox, init.sh, and the modules it takes to reach the host's root."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.kernel.errors import GuestSetupError

if TYPE_CHECKING:
    from tests.kernel.debian_kernel import Kernel

# Everything else (wireguard, veth, nft_*, vxlan, ...) is loaded on demand from the host's root, as on a real machine.
BOOT_MODULES = ("virtio_pci", "virtiofs", "overlay", "virtio_console")
FOLDERS = ("bin", "proc", "sys", "dev", "host", "scratch", "new")


def build(kernel: Kernel, work: Path, *, exchange: str, token: str) -> Path:
    """Write the initramfs below `work`; `exchange` is that folder's path in the guest, `token` ends the output.

    It is not compressed: the emulated processor would spend longer unpacking than QEMU spends reading.

    Raises:
        GuestSetupError: The kernel lacks a module that the boot needs.
    """
    tree = work / "initramfs"
    for name in FOLDERS:
        (tree / name).mkdir(parents=True)
    busybox = shutil.which("busybox")
    if busybox is None:
        raise GuestSetupError("no busybox: run deploy/bootstrap.sh kernel")
    shutil.copy(busybox, tree / "bin" / "busybox")
    (tree / "bin" / "sh").symlink_to("busybox")
    init = tree / "init"
    shutil.copy(Path(__file__).with_name("init.sh"), init)
    init.chmod(0o755)
    settings = {
        "BOOT_MODULES": " ".join(BOOT_MODULES),
        "MODULES": str(kernel.modules),
        "EXCHANGE": exchange,
        "TOKEN": token,
    }
    (tree / "config").write_text("".join(f"{key}={shlex.quote(value)}\n" for key, value in settings.items()))
    for name in ("modules.dep", *closure(kernel.modules, BOOT_MODULES)):
        target = tree / "lib" / "modules" / kernel.release / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(kernel.modules / name, target)

    names = "".join(f"{path.relative_to(tree)}\n" for path in sorted(tree.rglob("*")))
    archive = work / "initramfs.cpio"
    with archive.open("wb") as out:
        cpio = ["cpio", "--quiet", "--create", "--format=newc", "--owner=+0:+0"]
        subprocess.run(cpio, cwd=tree, input=names.encode(), stdout=out, check=True)
    return archive


def closure(modules: Path, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The files, relative to the tree, of the wanted modules and all they depend on; built-in ones have none.

    Raises:
        GuestSetupError: A wanted module is neither in modules.dep nor built in.
    """
    dependencies: dict[str, tuple[str, ...]] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        file, _, others = line.partition(":")
        dependencies[file] = tuple(others.split())
    file_of = {_module(file): file for file in dependencies}
    built_in = {_module(line) for line in (modules / "modules.builtin").read_text().split()}

    found: dict[str, None] = {}  # as an ordered set
    missing = [name for name in wanted if name not in file_of and name not in built_in]
    if missing:
        raise GuestSetupError(f"the kernel {modules.name} has no module {', '.join(missing)}")
    pending = [file_of[name] for name in wanted if name in file_of]
    while pending:
        file = pending.pop()
        if file not in found:
            found[file] = None
            pending.extend(dependencies[file])
    return tuple(found)


def _module(file: str) -> str:
    return Path(file).name.removesuffix(".ko").replace("-", "_")
