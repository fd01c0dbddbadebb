"""DNS of one task: whom its program asks, and what answers the questions for its links."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from agent.dns.resolv_conf import ResolvConf
from agent.dns.responder_client import Responder
from agent.linux.netns import TaskNetns
from mesh.topology.policy import Resolving
from mesh.topology.wgtypes import InterfaceConfig


@dataclass(slots=True)
class TaskDns:
    """One task's part of the node's responder.

    Attributes:
        responder: of the node; None where nothing can answer.
        resolv_conf: name servers and search domains that the container's file has named.
    """

    responder: Responder | None = None
    resolv_conf: ResolvConf = field(default_factory=ResolvConf)

    def resolving(self, hosts: str, names: tuple[str, ...]) -> Resolving:
        """Return the questions to be answered, for the rules.

        Args:
            hosts: path of its hosts file, beside which its resolv.conf lies.
            names: of its links.
        """
        if self.responder is None or not self.responder.able:
            return Resolving()
        self.resolv_conf.look(str(Path(hosts).with_name("resolv.conf")))
        return Resolving(names, self.resolv_conf.servers, self.resolv_conf.search)

    def serve(self, container: str, netns: TaskNetns, desired: InterfaceConfig) -> None:
        """Have its questions answered from now on. Raises as `Responder.serve`."""
        if self.responder is not None:
            self.responder.serve(container, netns, desired.answers, desired.policy.resolving)

    def problem(self, container: str, applied: InterfaceConfig | None) -> str | None:
        """Why its questions are not answered although it is wired, in words."""
        if self.responder is None or applied is None or not applied.answers:
            return None
        return self.responder.problem(container)

    def stop(self, container: str) -> None:
        """Have them answered no longer: a socket kept in its namespace would keep that for ever."""
        if self.responder is not None:
            self.responder.stop(container)
