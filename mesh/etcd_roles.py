"""Who may do what in etcd: users, which are the common names of certificates, and their roles. Sets them up.

An agent reads one range that holds everything, and not only what it needs: its watch must show whole revisions, which
only a single watch does, and etcd lets a watch span only what the role may read without a gap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from etcd3 import etcdrpc

from mesh import keyspace
from mesh.etcd import Link
from mesh.etcd_users import AGENT, CONTROLLER, ROOT_USER, is_node
from mesh.records import Access

READ, WRITE, BOTH = 0, 1, 2
"""authpb.Permission.Type."""

# UserAddOptions.no_password (field 3, 1) came with etcd 3.4, after etcd3's stubs. Unknown fields are sent on.
_NO_PASSWORD = b"\x1a\x02\x08\x01"
_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Grant:
    """One permission: keys in [first, end), or `first` alone where there is no end."""

    kind: int
    first: bytes
    end: bytes = b""


def grants(access: Access | None = None, root: str = keyspace.ROOT) -> Mapping[str, tuple[Grant, ...]]:
    """Each role with what it may do; the users have the same names.

    Args:
        access: the nodes that are users. None while no controller has said: then agents are one user, who may write
            for all of them.
        root: what all keys begin with.
    """
    everything = _below(BOTH, root), _below(READ, root)
    if access is None:
        all_nodes = (keyspace.NODES, keyspace.TASKS, keyspace.STATUS, keyspace.VIEWS, keyspace.RECALLED)
        return {CONTROLLER: everything[:1], AGENT: (everything[1], *(_below(WRITE, root + one) for one in all_nodes))}
    nodes = {node: (everything[1], *_own(node, root)) for node in access.nodes if is_node(node)}
    shared = [grant for node in access.shared if node in nodes for grant in _own(node, root)]
    # Last, so that a node has its own user before the shared one writes for it no more.
    return {CONTROLLER: everything[:1], **nodes, AGENT: (everything[1], *shared) if shared else ()}


def establish(
    link: Link,
    wanted: Mapping[str, tuple[Grant, ...]],
    before: Mapping[str, tuple[Grant, ...]] = MappingProxyType({}),
) -> None:
    """Make users and roles what they should be, and turn authentication on. May be done again at any time.

    Args:
        link: to an etcd that nobody else reaches, or as its user root.
        wanted: roles, as `grants` gives them.
        before: roles that are known to be so already, and users too; they are not looked at again.

    Raises:
        grpc.RpcError: as `Line.use` turns into ours.
    """
    auth = link.auth
    roles = set(auth.RoleList(etcdrpc.AuthRoleListRequest(), timeout=_TIMEOUT).roles)
    users = set(auth.UserList(etcdrpc.AuthUserListRequest(), timeout=_TIMEOUT).users)
    for stranger in users - {ROOT_USER, *wanted}:
        auth.UserDelete(etcdrpc.AuthUserDeleteRequest(name=stranger), timeout=_TIMEOUT)
    for stranger in roles - {ROOT_USER, *wanted}:
        auth.RoleDelete(etcdrpc.AuthRoleDeleteRequest(role=stranger), timeout=_TIMEOUT)
    for name in (ROOT_USER, *wanted):
        if name in roles and name in users and name in before and before[name] == wanted[name]:
            continue
        if name not in roles:
            auth.RoleAdd(etcdrpc.AuthRoleAddRequest(name=name), timeout=_TIMEOUT)
        if name != ROOT_USER:
            _allow(auth, name, wanted[name])
        _enrol(auth, name, new=name not in users)
    auth.AuthEnable(etcdrpc.AuthEnableRequest(), timeout=_TIMEOUT)


def _enrol(auth: Any, user: str, *, new: bool) -> None:  # noqa: ANN401 - etcd3 is not typed
    """Give a user the role of its name, and no other."""
    if new:
        request = etcdrpc.AuthUserAddRequest.FromString(_NO_PASSWORD)
        request.name = user
        auth.UserAdd(request, timeout=_TIMEOUT)
    had = set(auth.UserGet(etcdrpc.AuthUserGetRequest(name=user), timeout=_TIMEOUT).roles)
    for other in had - {user}:
        auth.UserRevokeRole(etcdrpc.AuthUserRevokeRoleRequest(name=user, role=other), timeout=_TIMEOUT)
    if user not in had:
        auth.UserGrantRole(etcdrpc.AuthUserGrantRoleRequest(user=user, role=user), timeout=_TIMEOUT)


def _allow(auth: Any, role: str, allowed: tuple[Grant, ...]) -> None:  # noqa: ANN401 - etcd3 is not typed
    had = auth.RoleGet(etcdrpc.AuthRoleGetRequest(role=role), timeout=_TIMEOUT).perm
    found = {Grant(one.permType, one.key, one.range_end) for one in had}
    # What is missing first: at no moment may a role do less than both before and after.
    for missing in allowed:
        if missing not in found:
            grant = etcdrpc.AuthRoleGrantPermissionRequest(name=role)
            grant.perm.permType, grant.perm.key, grant.perm.range_end = missing.kind, missing.first, missing.end
            auth.RoleGrantPermission(grant, timeout=_TIMEOUT)
    # Of one range a role has one permission: what has another kind now is taken over by the new one.
    kept = {(one.first, one.end) for one in allowed}
    for surplus in {(one.first, one.end) for one in found} - kept:
        request = etcdrpc.AuthRoleRevokePermissionRequest(role=role)
        # The stubs say that keys are text here; ours are.
        request.key, request.range_end = surplus[0].decode(), surplus[1].decode()
        auth.RoleRevokePermission(request, timeout=_TIMEOUT)


def _own(node: str, root: str) -> tuple[Grant, ...]:
    """What a node writes; with the slash, as an id might begin with another."""
    return (
        Grant(WRITE, (root + keyspace.node(node)).encode()),
        Grant(WRITE, (root + keyspace.status(node)).encode()),
        _below(WRITE, root + keyspace.view(node, "")),
        _below(WRITE, root + keyspace.report(node, "")),
        _below(WRITE, root + keyspace.recalled(node, "")),
    )


def _below(kind: int, prefix: str) -> Grant:
    first = prefix.encode()
    return Grant(kind, first, first[:-1] + bytes([first[-1] + 1]))
