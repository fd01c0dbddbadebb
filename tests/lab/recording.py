"""The README's recording of a terminal: `LINKWIRE_LAB=NAME python -m tests.lab.recording docs/recording.svg`.

It makes a lab of three nodes with Linkwire, types the commands with the example shop, and takes the lab away.
Debian's `termtosvg` makes the picture. Taken by hand where the words or the looks of a command have changed, and
looked at.
"""

from __future__ import annotations

import codecs
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.lab.deployment import EXAMPLES, Deployment, deployed
from tests.lab.lab import Lab, default_name
from tests.lab.node import Node
from tests.lab.terminal import written

SIZE = (120, 24)
TYPED_S, GAP_S = 0.06, 1.0
"""Between two letters, and at most between two writes: nobody wants to watch an image start."""
READ_S, LAST_S = 3.5, 6.0
"""For which an output stands before the next command."""
COMMANDS: Sequence[Sequence[str]] = (
    ("deploy", "-c", "docker-compose.yml", "shop"),
    ("ps", "shop"),
    ("explain", "shop_front", "shop_app:8000"),
    ("explain", "shop_front", "shop_redis"),
    ("status",),
)
_CLEARED = "\x1b[H\x1b[2J"

Event = tuple[float, str]


def main() -> None:
    """Record all commands and write the picture."""
    with Lab(default_name(), nodes=3, say=print).anew() as lab:
        stacks = deployed(lab, {}, own_etcd=True, gate=True)
        with stacks.plugged_in() as environment, tempfile.TemporaryDirectory() as place:
            shop = Path(shutil.copytree(EXAMPLES / "shop", Path(place) / "shop"))
            record(stacks, environment | stacks.example_images(), shop, Path(sys.argv[1]))


def record(stacks: Deployment, environment: Mapping[str, str], shop: Path, file: Path) -> None:
    """Write the picture of all commands, on a Swarm with Linkwire and without the shop.

    Args:
        stacks: the Swarm's.
        environment: of the commands.
        shop: the folder with the shop's file.
        file: to write.
    """
    events: list[Event] = []
    for words in COMMANDS:
        if words[0] == "ps":
            stacks.wait_connected("shop")
        at = events[-1][0] + READ_S if events else 0.0
        events.extend(_recorded(stacks.lab.manager, environment, shop, words, at))
    _picture(events, file)


def _recorded(
    node: Node, environment: Mapping[str, str], folder: Path, words: Sequence[str], at: float
) -> Iterator[Event]:
    """Yield what a terminal shows while somebody types a command and it runs, from a time on."""
    yield at, f"{_CLEARED}$ "
    for letter in f"docker linkwire {' '.join(words)}":
        at += TYPED_S
        yield at, letter
    yield at + 0.5, "\r\n"
    at, before, decoder = at + 0.5, 0.0, codecs.getincrementaldecoder("utf-8")("replace")
    for seconds, block in written(node, environment, folder, words, SIZE):
        at, before = at + min(GAP_S, seconds - before), seconds
        yield at, decoder.decode(block)


def _picture(events: Sequence[Event], file: Path) -> None:
    """Write an animated SVG of what was recorded."""
    header = {"version": 2, "width": SIZE[0], "height": SIZE[1]}
    lines = [header, *([round(at, 3), "o", text] for at, text in [*events, (events[-1][0] + LAST_S, "")])]
    with tempfile.NamedTemporaryFile("w", suffix=".cast") as cast:
        cast.write("".join(f"{json.dumps(line)}\n" for line in lines))
        cast.flush()
        subprocess.run(["termtosvg", "render", cast.name, str(file), "-t", "gjm8"], check=True)
    print(f"{file}: {file.stat().st_size} bytes")


if __name__ == "__main__":
    main()
