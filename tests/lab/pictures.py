"""Pictures of what each command shows on a lab's Swarm, for docs/commands.md.

`python -m tests.lab.pictures FOLDER [RECORDING]`: with a second file also the recording of the README. Taken by hand
where the words or the looks of a command have changed, and looked at.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tests.lab import checker, recording
from tests.lab.deployment import EXAMPLES, Deployment, deployed
from tests.lab.lab import Lab
from tests.lab.node import Node
from tests.lab.process import wait_for
from tests.lab.terminal import written

COLUMNS, ROWS = 120, 50
WELL: Mapping[str, Sequence[str]] = {
    "status": ["status"],
    "ps": ["ps", "shop"],
    "ps-pairs": ["ps", "--pairs", "shop"],
    "explain": ["explain", "shop_front", "shop_app:8000"],
    "test": ["test"],
    "test-all-links": ["test", "--all-links", "shop"],
    "top": ["top", "--no-stream"],
    "flows": ["flows", "--for", "1", "shop"],
    "events": ["events", "shop"],
    "logs": ["logs", "-n", "12", "shop"],
    "node": ["node", "ls"],
    "gate": ["gate", "status"],
    "renew": ["renew", "--check"],
    "support-bundle": ["support-bundle"],
    "graph": ["graph", "shop"],
    "rotate": ["rotate", "shop_front:shop_app"],
    "backup-key": ["backup", "--keygen", "backup.key"],
    "backup": ["backup", "--to", "linkwire.backup", "--recipient", "backup.key.pub"],
    "restore": ["restore", "--identity", "backup.key", "--dry-run", "linkwire.backup"],
    "node-encryption-on": ["node", "encryption", "on"],
    "node-encryption": ["node", "encryption", "status"],
    "explain-nodes": ["explain", "n1", "n2"],
}
ILL: Mapping[str, Sequence[str]] = {
    "status-broken": ["status"],
    "ps-broken": ["ps", "shop"],
    "check-broken": ["check"],
    "explain-broken": ["explain", "shop_front", "shop_app:8000"],
}

_CLIP = re.compile(r'(-clip-terminal">\s*<rect x="0" y="0" width="[\d.]+" height=")([\d.]+)')
_BELOW = 5.0
"""What rich cuts off the last line: letters below the base, and every underscore."""


def main() -> None:
    """Make a lab with Linkwire and the shop of the examples, take all pictures, and take the lab away."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    with Lab("pic", nodes=3, say=print).anew() as lab:
        stacks = deployed(lab, {}, own_etcd=True, gate=True)
        with stacks.plugged_in() as environment, tempfile.TemporaryDirectory() as place:
            shop = Path(shutil.copytree(EXAMPLES / "shop", Path(place) / "shop"))
            variables = environment | stacks.example_images()

            def take(pictures: Mapping[str, Sequence[str]]) -> None:
                for name, words in pictures.items():
                    _picture(folder, name, words, _shown(lab.manager, variables, shop, words))

            take({"deploy": ["deploy", "-c", "docker-compose.yml", "shop"]})
            checker.settle(lab)
            with _busy(stacks):
                take(WELL)
                stacks.linkwire("node", "encryption", "off")
            with _blocked(stacks.tasks("shop_app")[0][0]), _busy(stacks):
                wait_for("a broken link", lambda: _is_broken(stacks), seconds=60, every=1.0)
                take(ILL)
            if sys.argv[2:]:
                stacks.remove("shop")
                recording.record(stacks, variables, shop, Path(sys.argv[2]))


def _is_broken(stacks: Deployment) -> bool:
    return any(pair["state"] == "broken" for link in stacks.ps("shop")["links"] for pair in link["pairs"])


@contextmanager
def _blocked(node: Node) -> Iterator[None]:
    """A firewall on a node that drops what comes from other nodes' tasks."""
    rule = "udp dport 51820-53819 fib saddr type != local drop"
    chain = "{ type filter hook prerouting priority -350; }"
    node.run(["nft", f"add table inet fault; add chain inet fault in {chain}; add rule inet fault in {rule}"])
    try:
        yield
    finally:
        node.run(["nft", "delete", "table", "inet", "fault"])


@contextmanager
def _busy(stacks: Deployment) -> Iterator[None]:
    """Requests to the shop, so that there is something to see."""
    node, front = stacks.tasks("shop_front")[0]
    again = "while :; do wget -q -T 3 -O /dev/null http://127.0.0.1:8080/ || :; sleep 0.2; done"
    with subprocess.Popen(node.docker_command("exec", front, "sh", "-c", f"timeout 900 sh -c '{again}'")) as load:
        try:
            time.sleep(5)
            yield
        finally:
            load.terminate()


def _shown(node: Node, environment: Mapping[str, str], folder: Path, words: Sequence[str]) -> str:
    """Run a command of the plugin in a folder, on a terminal; return what stays there."""
    blocks = [block for _, block in written(node, environment, folder, words, (COLUMNS, ROWS))]
    return _still(b"".join(blocks).decode(errors="replace"))


def _still(text: str) -> str:
    """Return what stays on the terminal: lines that were written over are left out."""
    lines = [""]
    for piece in re.split(r"(\r\n|\n|\r|\x1b\[\d*A|\x1b\[2K)", text):
        if piece in {"\r\n", "\n"}:
            lines.append("")
        elif piece in {"\r", "\x1b[2K"}:
            lines[-1] = lines[-1] if piece == "\r" else ""
        elif up := re.fullmatch(r"\x1b\[(\d*)A", piece):
            del lines[len(lines) - int(up[1] or 1) :]
            lines = lines or [""]
            lines[-1:] = [""]
        else:
            lines[-1] += re.sub(r"\x1b\[\?25[lh]", "", piece)
    return "\n".join(lines).rstrip()


def _picture(folder: Path, name: str, words: Sequence[str], shown: str) -> None:
    """Write a picture of a terminal as SVG that loads nothing from anywhere."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True, color_system="truecolor")
        console.print(Text.assemble(("$ ", "dim"), f"docker linkwire {' '.join(words)}"))
        console.print(Text.from_ansi(shown), soft_wrap=False)
        svg = console.export_svg(title="", unique_id=name)
    svg = re.sub(r"@font-face\s*\{.*?\}", "", svg, flags=re.DOTALL)
    svg = _CLIP.sub(lambda found: f"{found[1]}{float(found[2]) + _BELOW:.1f}", svg, count=1)
    (folder / f"{name}.svg").write_text(re.sub(r"[ \t]+\n", "\n", svg))
    print(f"{name}: {len(svg)} bytes")


if __name__ == "__main__":
    main()
