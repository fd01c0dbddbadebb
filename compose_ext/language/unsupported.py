"""Compose keys that `docker stack deploy` accepts and ignores, with their places. No I/O here."""

from collections.abc import Sequence

from compose_ext.diagnostics import Report
from compose_ext.document import tree
from compose_ext.document.cursor import Context, Cursor
from compose_ext.document.loader import Document

_IGNORED = {
    "build": "build and push the image before, and name it in `image`",
    "cgroup_parent": "",
    "cgroupns_mode": "",
    "container_name": "Swarm names the containers itself",
    "depends_on": "Swarm starts all services at once",
    "devices": "",
    "domainname": "",
    "ipc": "",
    "mac_address": "",
    "pid": "",
    "privileged": "`cap_add` gives single rights",
    "restart": "`deploy.restart_policy` says when Swarm starts a task again",
    "security_opt": "",
    "shm_size": "a volume of `type: tmpfs` on /dev/shm has a size",
    "userns_mode": "",
}
"""Key of a service -> what to do instead (docker/cli cli/compose/types/types.go, UnsupportedProperties, and
depends_on, which it passes over). `network_mode` and links have warnings of their own."""


def report_ignored(documents: Sequence[Document], report: Report, *, linkwires: bool) -> None:
    """Warn of each key of a service that Swarm ignores.

    Args:
        documents: the files.
        report: takes the warnings.
        linkwires: whether the files have `x-wireguard`, so that conditions of `depends_on` are read by Linkwire.
    """
    for document in documents:
        services = Cursor(Context(report, {}), document.file, document.root).get("services")
        for name, service in services.children() if services else ():
            for key, value in service.of_service(name).children():
                if key not in _IGNORED or (
                    linkwires and key == "depends_on" and isinstance(value.tree, tree.Mapping)
                ):
                    continue
                instead = _IGNORED[key]
                value.warn(f"Swarm ignores this{': ' if instead else ''}{instead}", value.key_place)
