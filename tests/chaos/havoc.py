"""Faults that links between other nodes outlive: each is made, lasts for a while, and is taken away again."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass

from agent.firewall.ruleset import NAME
from tests.chaos.killer import AGENT, CONTROLLER, WORKER, processes
from tests.lab.deployment import Deployment
from tests.lab.test_lifecycle import compose

Heal = Callable[[], object]
LIFE = "life"
LONGEST_S = 20.0
SPARED = ("n1", "n2")
"""Nodes of the links that must lose nothing: they keep power and network."""


@dataclass(frozen=True)
class Havoc:
    """Faults and changes, chosen by a seed."""

    stacks: Deployment
    choice: random.Random

    def fault(self) -> tuple[str, Heal]:
        """Make one; return its name, and what takes it away."""
        lab = self.stacks.lab
        faults: dict[str, Callable[[], Heal]] = {
            **{f"{victim} killed": self._signals(victim, signal.SIGKILL) for victim in (AGENT, WORKER, CONTROLLER)},
            **{f"{victim} stopped": self._signals(victim, signal.SIGSTOP) for victim in (WORKER, CONTROLLER)},
            "etcd away": self._made(lab.kill_etcd, lab.restart_etcd),
            "etcd emptied": self._made(lab.wipe_etcd),
            "node cut off": self._made(lambda: lab.cut("n3"), lambda: lab.heal("n3")),
            "node without power": self._made(lambda: lab.stop_node("n3"), lambda: lab.start_node("n3")),
            "node drained": self._made(lambda: self._available("drain"), lambda: self._available("active")),
            "rules of a task gone": self._made(self._flush),
        }
        name = self.choice.choice(sorted(faults))
        return name, faults[name]()

    def change(self) -> str:
        """Change the stack that lives through it; return what."""
        docker, stacks = self.stacks.lab.manager.docker, self.stacks
        web, client = self.choice.randint(1, 5), self.choice.randint(1, 4)
        links = self.choice.choice(("web", "cache", "web, client"))
        changes: dict[str, Callable[[], object]] = {
            "scaled": lambda: docker("service", "scale", "--detach", f"life_web={web}", f"life_client={client}"),
            "scaled to none": lambda: docker("service", "scale", "--detach", "life_web=0"),
            "replaced": lambda: docker("service", "update", "--detach", "--force", "life_web"),
            "deployed": lambda: stacks.deploy(LIFE, compose(stacks, web=web, client=client, client_links=links)),
            "removed and deployed at once": lambda: self._again(web),
            "a task killed": self._kill_task,
        }
        name = self.choice.choice(sorted(changes))
        changes[name]()
        return name

    def _again(self, web: int) -> None:
        """Remove the stack and deploy it before it is gone (docker/for-linux#531)."""
        self.stacks.lab.manager.docker("stack", "rm", LIFE)
        self.stacks.deploy(LIFE, compose(self.stacks, web=web))

    def _made(self, make: Callable[[], object], heal: Heal = lambda: None) -> Callable[[], Heal]:
        def made() -> Heal:
            make()
            return heal

        return made

    def _signals(self, victim: str, number: signal.Signals) -> Callable[[], Heal]:
        def send() -> Heal:
            pids = processes(self.stacks.lab, victim)
            if not pids:
                return lambda: None
            pid = self.choice.choice(sorted(pids))
            handle = os.pidfd_open(pid)

            def heal() -> None:
                with contextlib.suppress(ProcessLookupError):  # Swarm has ended it meanwhile
                    signal.pidfd_send_signal(handle, signal.SIGCONT)
                os.close(handle)

            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, number)
            return heal

        return send

    def _available(self, state: str) -> None:
        self.stacks.lab.manager.docker("node", "update", "--availability", state, "n3")

    def _tasks(self) -> list[tuple[str, str]]:
        found = self.stacks.tasks(f"{LIFE}_web") + self.stacks.tasks(f"{LIFE}_client")
        return sorted((node.name, container) for node, container in found)

    def _kill_task(self) -> None:
        if tasks := self._tasks():
            name, container = self.choice.choice(tasks)
            self.stacks.lab.node(name).docker("kill", container, check=False)

    def _flush(self) -> None:
        if tasks := self._tasks():
            name, container = self.choice.choice(tasks)
            node = self.stacks.lab.node(name)
            pid = node.docker("inspect", "--format", "{{.State.Pid}}", container, check=False).stdout.strip()
            if pid not in ("", "0"):
                node.run(
                    ["nsenter", f"--net=/proc/{pid}/ns/net", "nft", "delete", "table", "inet", NAME], check=False
                )
