"""Refusal of plain overlay packets between a reboot and the agent's start: what the gate's script needs for it.

A reboot takes the rules of `strict` away, and tasks of the node may start before its agent. So the agent leaves a
file on its volume, by which deploy/linkwire-runc refuses the same packets from before dockerd joins an overlay
network. The script leaves its answer beside the start gate's files; both hold to the same names and words.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from agent.containers import start_gate
from agent.containers.docker_api import Docker
from agent.state import atomic_file
from mesh.errors import Retryable

FILE = "refuse-plain"
"""Holds the overlays' UDP port and the devices' names; the script's answer has the same name."""
ASKS_S = 300.0
"""Seconds between two questions whether the script does its part: the gate may come and go."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_TIMEOUT_S = 5.0
_MOST = 200


class AfterReboot:
    """Refusal after a reboot, asked for and given up.

    Args:
        state: the agent's own folder, which outlives a reboot.
        url: of this node's Docker.
        devices: the node's, by which overlay packets may pass.
    """

    def __init__(self, state: Path, url: str, devices: Iterable[str]) -> None:
        self._file = state / FILE
        self._docker = Docker(url, _TIMEOUT_S)
        self._devices = " ".join(devices)
        self._asked: tuple[float, str, str] = (0.0, "", "")

    def refuse(self, port: int) -> str:
        """Have plain overlay packets refused from the node's start on; names what hinders it, empty for nothing.

        Args:
            port: UDP, of the Swarm's VXLAN; 0 to refuse none.

        Raises:
            Retryable: the file cannot be written or removed.
        """
        text = f"{port} {self._devices}\n" if port else ""
        try:
            if not text:
                self._file.unlink(missing_ok=True)
                return ""
            if not self._file.exists() or self._file.read_text() != text:
                atomic_file.write(self._file, text.encode())
        except OSError as error:
            raise Retryable(f"cannot keep in {self._file} whether plain packets are refused: {error}") from error
        at, of, problem = self._asked
        if of != text or time.monotonic() >= at:
            problem = self._problem(text.strip())
            self._asked = (time.monotonic() + ASKS_S, text, problem)
        return problem

    def _problem(self, expected: str) -> str:
        """Have Docker run the script, which looks for the file whatever it is asked."""
        answer = start_gate.FOLDER / FILE
        try:
            answer.unlink(missing_ok=True)
            with self._docker.asked_to("ask Docker what it is") as client:
                client.info()
            said = " ".join(answer.read_text(errors="replace").split())[:_MOST]
        except FileNotFoundError:
            said = "it has no gate: docker linkwire gate install"
        except (OSError, Retryable) as error:
            said = str(error)
        if said == f"{_BOOT.read_text().strip()} {expected}":
            return ""
        return f"after a reboot plain overlay packets pass on this node until its agent has started: {said}"
