"""The users of etcd: common names of certificates. No I/O here, and no etcd."""

from __future__ import annotations

import re

ROOT_USER = "root"
"""Everything, users too; its certificate never leaves the container that etcd runs in (controller.etcd_server)."""
CONTROLLER = "controller"
"""All of our keys."""
AGENT = "agent"
"""The agents' shared one: what an agent shows that cannot show its node's own certificate."""

_NODE = re.compile("[0-9a-z]{25}")


def is_node(name: str) -> bool:
    """Whether a name is such as Swarm gives its nodes (swarmkit, identity/randomid.go), and so none of ours.

    A node's user has its Swarm id for a name, since that is the common name of the certificate that Swarm gives it.
    """
    return _NODE.fullmatch(name) is not None
