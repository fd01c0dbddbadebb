"""The lab's command line: python -m tests.lab up|run|status|down|stop|start|cut|heal|mtu|etcd."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import TYPE_CHECKING

from tests.lab import images
from tests.lab.lab import Lab, default_name
from tests.lab.layout import LabError

if TYPE_CHECKING:
    from collections.abc import Callable


def main(argv: list[str] | None = None) -> int:
    """Do what the arguments say; 0 done, 1 the lab says why not, 2 wrong arguments."""
    arguments = _parser().parse_args(argv)
    try:
        _act(arguments)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("lab: stopped half-way; `up` mends it, `down` takes it away", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description="A real Docker Swarm on one machine.")
    parser.add_argument("--name", default=default_name(), help="the lab's name (LINKWIRE_LAB, default lw)")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    up = verbs.add_parser("up", help="bring it up, or mend it")
    up.add_argument("--nodes", type=int, help="how many nodes (default: as it was, or 3)")
    up.add_argument("--managers", type=int, help="how many of them are managers (default: as it was, or 1)")
    up.add_argument("--mtu", type=int, help="the largest packet on its wires, in bytes (default: as it was, or 1500)")
    up.add_argument("--gate", action="store_true", help="start every container by deploy/linkwire-runc from now on")
    up.add_argument("--newest", action="append", default=[], metavar="NODE", help="run Debian's newest Docker there")
    run = verbs.add_parser("run", help="run a command inside a node")
    run.add_argument("node")
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    verbs.add_parser("status", help="show what is up")
    verbs.add_parser("images", help="build the images and push them to the lab's registry")
    verbs.add_parser("down", help="take everything away")
    for verb, text in (
        ("stop", "cut a node's power"),
        ("start", "give it back"),
        ("cut", "cut a node off the network"),
        ("heal", "undo cut"),
    ):
        verbs.add_parser(verb, help=text).add_argument("node")
    mtu = verbs.add_parser("mtu", help="change the largest packet that the lab's wires take")
    mtu.add_argument("bytes", type=int)
    etcd = verbs.add_parser("etcd", help="kill etcd, restart it on its data, or start it empty")
    etcd.add_argument("fault", choices=("kill", "restart", "wipe"))
    return parser


def _act(arguments: argparse.Namespace) -> None:
    if arguments.verb == "up":
        _up(arguments)
        return
    if arguments.verb == "down":
        Lab(arguments.name, say=print).down()
        return
    lab = Lab.existing(arguments.name, say=print)
    match arguments.verb:
        case "status":
            print("\n".join(lab.status()))
        case "images":
            images.build_all(lab, say=_clock())
        case "run":
            _run(lab, arguments.node, arguments.command)
        case "etcd":
            {"kill": lab.kill_etcd, "restart": lab.restart_etcd, "wipe": lab.wipe_etcd}[arguments.fault]()
        case "mtu":
            lab.set_mtu(arguments.bytes)
        case verb:
            {"stop": lab.stop_node, "start": lab.start_node, "cut": lab.cut, "heal": lab.heal}[verb](arguments.node)


def _clock() -> Callable[[str], None]:
    began = time.monotonic()

    def say(text: str) -> None:
        # One write, or lines of parallel starts run into each other.
        sys.stdout.write(f"{time.monotonic() - began:5.1f} s  {text}\n")
        sys.stdout.flush()

    return say


def _up(arguments: argparse.Namespace) -> None:
    try:
        earlier = Lab.existing(arguments.name).layout
        nodes, managers = earlier.nodes, earlier.managers
    except LabError:
        nodes, managers = 3, 1
    nodes = nodes if arguments.nodes is None else arguments.nodes
    managers = min(managers, nodes) if arguments.managers is None else arguments.managers
    more = {"mtu": arguments.mtu, "gate": arguments.gate, "newest": arguments.newest}
    Lab(arguments.name, nodes, managers, say=_clock(), **more).up()


def _run(lab: Lab, node: str, command: list[str]) -> None:
    argv = command[1:] if command[:1] == ["--"] else command
    if not argv:
        raise LabError("run: no command; like this: run n1 -- docker ps")
    inside = lab.node(node).command(argv)
    sys.stdout.flush()
    os.execvp(inside[0], inside)  # noqa: S606 - the command takes this process's place: terminal, signals, exit code


if __name__ == "__main__":
    sys.exit(main())
