"""Names of etcd's users, which are common names of certificates. No I/O here."""

from __future__ import annotations

import re

ROOT_USER = "root"
"""May do everything; its certificate never leaves the container that etcd runs in (controller.etcd.server)."""
CONTROLLER = "controller"
"""May read and write all of our keys."""
AGENT = "agent"
"""Shared by the agents that cannot use their node's own certificate."""

MEMBER = "linkwire-etcd-member"
"""No user: the name that etcd's members show each other, which their ports for each other take alone."""

_NODE = re.compile("[0-9a-z]{25}")


def is_node(name: str) -> bool:
    """Return whether a name is a Swarm node id (swarmkit, identity/randomid.go), and so none of the names above.

    A node's user is named after its Swarm id: the common name of the certificate that Swarm issues to it.
    """
    return _NODE.fullmatch(name) is not None
