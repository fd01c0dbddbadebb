"""Who may do what in etcd: users, which are the common names of certificates, and their roles. Sets them up.

An agent reads one range that holds everything, and not only what it needs: its watch must show whole revisions, which
only a single watch does, and etcd lets a watch span only what the role may read without a gap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from etcd3 import etcdrpc

from mesh import keyspace
from mesh.etcd import Link
from mesh.etcd_users import AGENT, CONTROLLER, ROOT_USER

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


def grants(root: str = keyspace.ROOT) -> Mapping[str, tuple[Grant, ...]]:
    """Each role with what it may do; the users have the same names."""
    everything = root.encode()
    theirs = (keyspace.NODES, keyspace.TASKS, keyspace.STATUS, keyspace.RECALLED)
    agents = tuple(_below(WRITE, root + prefix) for prefix in theirs)
    return {
        CONTROLLER: (_below(BOTH, everything.decode()),),
        AGENT: (_below(READ, everything.decode()), *agents),
    }


def establish(link: Link, wanted: Mapping[str, tuple[Grant, ...]]) -> None:
    """Make users and roles what they should be, and turn authentication on. May be done again at any time.

    Args:
        link: to an etcd that nobody else reaches, or as its user root.
        wanted: roles, as `grants` gives them.

    Raises:
        grpc.RpcError: as `Line.use` turns into ours.
    """
    auth = link.auth
    roles = set(auth.RoleList(etcdrpc.AuthRoleListRequest(), timeout=_TIMEOUT).roles)
    users = set(auth.UserList(etcdrpc.AuthUserListRequest(), timeout=_TIMEOUT).users)
    for role in (ROOT_USER, *wanted):
        if role not in roles:
            auth.RoleAdd(etcdrpc.AuthRoleAddRequest(name=role), timeout=_TIMEOUT)
    for role, allowed in wanted.items():
        _allow(auth, role, allowed)
    for user in (ROOT_USER, *wanted):
        if user not in users:
            request = etcdrpc.AuthUserAddRequest.FromString(_NO_PASSWORD)
            request.name = user
            auth.UserAdd(request, timeout=_TIMEOUT)
        had = set(auth.UserGet(etcdrpc.AuthUserGetRequest(name=user), timeout=_TIMEOUT).roles)
        for other in had - {user}:
            auth.UserRevokeRole(etcdrpc.AuthUserRevokeRoleRequest(name=user, role=other), timeout=_TIMEOUT)
        if user not in had:
            auth.UserGrantRole(etcdrpc.AuthUserGrantRoleRequest(user=user, role=user), timeout=_TIMEOUT)
    for stranger in users - {ROOT_USER, *wanted}:
        auth.UserDelete(etcdrpc.AuthUserDeleteRequest(name=stranger), timeout=_TIMEOUT)
    auth.AuthEnable(etcdrpc.AuthEnableRequest(), timeout=_TIMEOUT)


def _allow(auth: Any, role: str, allowed: tuple[Grant, ...]) -> None:  # noqa: ANN401 - etcd3 is not typed
    had = auth.RoleGet(etcdrpc.AuthRoleGetRequest(role=role), timeout=_TIMEOUT).perm
    found = {Grant(one.permType, one.key, one.range_end) for one in had}
    for surplus in found - set(allowed):
        request = etcdrpc.AuthRoleRevokePermissionRequest(role=role)
        # The stubs say that keys are text here; ours are.
        request.key, request.range_end = surplus.first.decode(), surplus.end.decode()
        auth.RoleRevokePermission(request, timeout=_TIMEOUT)
    for missing in allowed:
        if missing not in found:
            grant = etcdrpc.AuthRoleGrantPermissionRequest(name=role)
            grant.perm.permType, grant.perm.key, grant.perm.range_end = missing.kind, missing.first, missing.end
            auth.RoleGrantPermission(grant, timeout=_TIMEOUT)


def _below(kind: int, prefix: str) -> Grant:
    first = prefix.encode()
    return Grant(kind, first, first[:-1] + bytes([first[-1] + 1]))
