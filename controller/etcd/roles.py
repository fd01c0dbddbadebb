"""Users and roles of etcd: one of each for every common name of a certificate, and the keys that it may use.

An agent may read one range with all keys, not only those that it needs: its watch must give whole revisions, which
only a single watch does, and etcd allows a watch only over a range that the role may read without a gap.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from mesh.identity.etcd_users import AGENT, CONTROLLER, ROOT_USER, is_node
from mesh.model import keyspace
from mesh.model.records import Access
from mesh.store.etcd_channel import Channel, rpc

READ, WRITE, BOTH = 0, 1, 2
"""authpb.Permission.Type."""

# UserAddOptions.no_password (field 3, 1) came with etcd 3.4, after etcd3's stubs. Unknown fields are serialised too.
_NO_PASSWORD = b"\x1a\x02\x08\x01"
_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Grant:
    """One permission: keys in [first, end), or `first` alone where there is no end."""

    kind: int
    first: bytes
    end: bytes = b""


def grants(
    access: Access | None = None, root: str = keyspace.ROOT, barred: Collection[str] = ()
) -> Mapping[str, tuple[Grant, ...]]:
    """Return the permissions of each role; the users have the same names.

    Args:
        access: the nodes that are users. None until a controller has written it: agents then share one user, which
            may write for all of them.
        root: prefix of all keys.
        barred: nodes that are no users for now: they filled etcd (controller.etcd.node_quota).
    """
    everything = _below(BOTH, root), _below(READ, root)
    if access is None:
        all_nodes = (
            *(keyspace.NODES, keyspace.TASKS, keyspace.STATUS, keyspace.VIEWS, keyspace.RECALLED),
            *(keyspace.ASKS, keyspace.TOLD, keyspace.FLOW_ASKS, keyspace.WATCHED),
        )
        return {
            CONTROLLER: everything[:1],
            AGENT: (everything[1], *(_below(WRITE, root + prefix) for prefix in all_nodes)),
        }
    nodes = {
        node: (everything[1], *_own(node, root)) for node in access.nodes if is_node(node) and node not in barred
    }
    shared = [grant for node in access.shared if node in nodes for grant in _own(node, root)]
    # Last, so that a node has its own user before the shared one may no longer write for it.
    return {CONTROLLER: everything[:1], **nodes, AGENT: (everything[1], *shared) if shared else ()}


def establish(
    link: Channel,
    desired: Mapping[str, tuple[Grant, ...]],
    previous: Mapping[str, tuple[Grant, ...]] = MappingProxyType({}),
) -> None:
    """Create, change and delete users and roles, and enable authentication. Idempotent.

    Args:
        link: to an etcd without other clients, or as its user root.
        desired: roles as `grants` returns them.
        previous: roles and users as this established them last; those that are the same are skipped.

    Raises:
        grpc.RpcError: `ChannelPool.use` translates it.
    """
    auth = link.auth
    roles = set(auth.RoleList(rpc.AuthRoleListRequest(), timeout=_TIMEOUT).roles)
    users = set(auth.UserList(rpc.AuthUserListRequest(), timeout=_TIMEOUT).users)
    for stranger in users - {ROOT_USER, *desired}:
        auth.UserDelete(rpc.AuthUserDeleteRequest(name=stranger), timeout=_TIMEOUT)
    for stranger in roles - {ROOT_USER, *desired}:
        auth.RoleDelete(rpc.AuthRoleDeleteRequest(role=stranger), timeout=_TIMEOUT)
    for name in (ROOT_USER, *desired):
        if name in roles and name in users and name in previous and previous[name] == desired[name]:
            continue
        if name not in roles:
            auth.RoleAdd(rpc.AuthRoleAddRequest(name=name), timeout=_TIMEOUT)
        if name != ROOT_USER:
            _allow(auth, name, desired[name])
        _enrol(auth, name, new=name not in users)
    auth.AuthEnable(rpc.AuthEnableRequest(), timeout=_TIMEOUT)


def keep_established(link: Channel) -> bool:
    """Enable authentication with the users and roles that etcd has; False where they were never all established."""
    auth = link.auth
    roles = set(auth.RoleList(rpc.AuthRoleListRequest(), timeout=_TIMEOUT).roles)
    users = set(auth.UserList(rpc.AuthUserListRequest(), timeout=_TIMEOUT).users)
    if not {ROOT_USER, CONTROLLER, AGENT} <= roles & users:
        return False
    auth.AuthEnable(rpc.AuthEnableRequest(), timeout=_TIMEOUT)
    return True


def _enrol(auth: Any, user: str, *, new: bool) -> None:  # noqa: ANN401 - etcd3 is not typed
    """Create a user if it is new, with the role of its name and no other."""
    if new:
        request = rpc.AuthUserAddRequest.FromString(_NO_PASSWORD)
        request.name = user
        auth.UserAdd(request, timeout=_TIMEOUT)
    had = set(auth.UserGet(rpc.AuthUserGetRequest(name=user), timeout=_TIMEOUT).roles)
    for other in had - {user}:
        auth.UserRevokeRole(rpc.AuthUserRevokeRoleRequest(name=user, role=other), timeout=_TIMEOUT)
    if user not in had:
        auth.UserGrantRole(rpc.AuthUserGrantRoleRequest(user=user, role=user), timeout=_TIMEOUT)


def _allow(auth: Any, role: str, allowed: tuple[Grant, ...]) -> None:  # noqa: ANN401 - etcd3 is not typed
    permissions = auth.RoleGet(rpc.AuthRoleGetRequest(role=role), timeout=_TIMEOUT).perm
    observed = {Grant(each.permType, each.key, each.range_end) for each in permissions}
    # Grant before revoking: a role always has at least what it has both before and after.
    for missing in allowed:
        if missing not in observed:
            grant = rpc.AuthRoleGrantPermissionRequest(name=role)
            grant.perm.permType, grant.perm.key, grant.perm.range_end = missing.kind, missing.first, missing.end
            auth.RoleGrantPermission(grant, timeout=_TIMEOUT)
    # A role has one permission a range: granting another kind has replaced the old one.
    ranges = {(grant.first, grant.end) for grant in allowed}
    for surplus in {(grant.first, grant.end) for grant in observed} - ranges:
        request = rpc.AuthRoleRevokePermissionRequest(role=role)
        # The stubs say that keys are text here; ours are.
        request.key, request.range_end = surplus[0].decode(), surplus[1].decode()
        auth.RoleRevokePermission(request, timeout=_TIMEOUT)


def _own(node: str, root: str) -> tuple[Grant, ...]:
    """Return what a node may write; each prefix ends with a slash, as one id may begin with another."""
    return (
        Grant(WRITE, (root + keyspace.node(node)).encode()),
        Grant(WRITE, (root + keyspace.status(node)).encode()),
        Grant(WRITE, (root + keyspace.ask(node)).encode()),
        _below(WRITE, root + keyspace.view(node, "")),
        _below(WRITE, root + keyspace.report(node, "")),
        _below(WRITE, root + keyspace.recalled(node, "")),
        _below(WRITE, root + keyspace.told(node, "")),
        _below(WRITE, root + keyspace.flow_ask(node, "")),
        _below(WRITE, f"{root}{keyspace.WATCHED}{node}/"),
    )


def _below(kind: int, prefix: str) -> Grant:
    first = prefix.encode()
    return Grant(kind, first, first[:-1] + bytes([first[-1] + 1]))
