"""Functions that take any bytes and raise nothing, by the one who writes those bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address

from agent.dns import wire
from agent.linux import hosts_file
from agent.node_gate import daemon_json
from agent.node_gate.errors import GateError
from agent.state import state_encoding
from compose_ext.diagnostics import Report
from compose_ext.document import interpolate
from compose_ext.document.loader import Source, load
from compose_ext.language.schema import read as read_schema
from compose_ext.language.validation import check
from mesh.crypto.hpke import DecryptionError, MalformedCiphertextError, NodeKey, unseal
from mesh.crypto.sealed_stream import SealedStreamError, opened, sealed
from mesh.crypto.signed_envelope import Keyring, Signer, SigningKey, peek, unwrap, wrap
from mesh.errors import InvalidRecordError
from mesh.model import codec, keyspace
from mesh.model.backup.contents import PURPOSE, Backup, BackupError, decoded, encoded
from mesh.model.labels import link_labels
from mesh.store import range_response
from mesh.topology.wgtypes import HostEntry

SIGNER = Signer("cluster", SigningKey(b"\1" * 32))
STRANGER = Keyring("cluster", (SigningKey(b"\2" * 32).verify_key,))
NODE_KEY = NodeKey(b"\3" * 32)
ENTRIES = tuple(HostEntry(ip_address(f"10.80.0.{number}"), (f"name{number}", "db")) for number in (1, 2))


def dns_question(data: bytes) -> None:
    """A task's message to its resolver: the answer is one to the question and fits."""
    question = wire.parse(data)
    if question is None:
        return
    for rcode in wire.Rcode:
        answer = wire.answer(question, rcode, [ip_address("10.80.0.1"), ip_address("fd00::1")] * 400)
        assert answer[:2] == data[:2]
        assert len(answer) <= max(question.room, len(question.raw) + 12 + 11)
    wire.encoded(question.name)


def hosts(data: bytes) -> None:
    """A hosts file as a task leaves it: our names get in, and no other line changes."""
    made = hosts_file.applied(data, hosts_file.changes(data, ENTRIES))
    found = hosts_file.parse(made)
    assert found is not None
    assert {(entry.address, name) for entry in found for name in entry.names} == {
        (entry.address, name) for entry in ENTRIES for name in entry.names
    }
    assert hosts_file.changes(made, ENTRIES) == ()


def service_labels(data: bytes) -> None:
    """Labels as Swarm takes them: what is read is written and read back."""
    pairs = (line.partition("=") for line in data.decode(errors="replace").split("\n"))
    read, _ = link_labels.decode({label: value for label, _, value in pairs})
    assert link_labels.decode(link_labels.encode(read)) == (read, ())


def record(data: bytes) -> None:
    """A key and a record of somebody who may write to etcd: refused, or one of ours that is written the same."""
    name, _, body = data.partition(b"\n")
    key = name.decode(errors="replace")
    try:
        read = codec.decode(key, body)
    except InvalidRecordError as error:
        assert str(error).startswith(f"{key}: ")  # noqa: PT017 - every error names its key
        return
    assert keyspace.key_of(read) == key
    assert codec.decode(key, codec.encode(read)) == read


def envelope(data: bytes) -> None:
    """A signed record of a stranger: never believed."""
    for value in (data, data[:-64] + wrap(SIGNER, "link", 1, b"x")[-64:]):
        try:
            peek("link", value)
            unwrap(STRANGER, "link", value)
        except InvalidRecordError:
            continue
        raise AssertionError("a stranger's record was believed")


def etcd_answer(data: bytes) -> None:
    """Bytes of somebody in etcd's place."""
    try:
        page = range_response.decode(data)
    except ValueError:
        return
    assert all(isinstance(each.key, bytes | str) for each in page.kvs)


def state_file(data: bytes) -> None:
    """A file on an agent's disk, damaged."""
    head = state_encoding.pack(())[:17]
    for content in (data, head + data, state_encoding.pack([("key", data)])):
        try:
            values = list(state_encoding.unpack(content))
        except ValueError:
            continue
        assert all(value for _, value in values)


def compose_file(data: bytes) -> None:
    """A tenant's compose file: an error with its place, or links."""
    report = Report(["a.yml"])
    document = load(Source("a.yml", data, rereadable=True), report)
    project = read_schema([document], {}, report) if document else None
    links = check(project, report) if project else None
    assert document is not None or report.errors
    assert links is None or report.errors or links.project is project


def variables(data: bytes) -> None:
    """A value of a compose file with variables in it."""
    text = data.decode(errors="replace")
    assert interpolate.interpolate(interpolate.escape(text), {}) == text
    try:
        interpolate.unset(text, {})
        interpolate.interpolate(text, {"A": "b"})
    except ValueError:
        return


def docker_settings(data: bytes) -> None:
    """A node's daemon.json, as its operator wrote it."""
    text = data.decode(errors="replace")
    try:
        config = daemon_json.parse(text, "daemon.json")
        behind = daemon_json.wrapped(config, "daemon.json")
    except GateError:
        return
    gated = daemon_json.with_gate(config, "/opt/linkwire-runc", behind)
    assert daemon_json.has_gate(daemon_json.parse(daemon_json.dump(gated, text), "daemon.json"))


def sealed_box(data: bytes) -> None:
    """A box of a stranger's: opens for nobody."""
    try:
        unseal(data, NODE_KEY, b"context")
    except (MalformedCiphertextError, DecryptionError):
        return
    raise AssertionError("a box opened that nobody sealed")


def backup(data: bytes) -> None:
    """A file that is said to be a backup: refused, or one that is written the same."""
    try:
        read = decoded(data)
    except BackupError:
        return
    assert decoded(b"".join(encoded(read))) == read


def sealed_backup(data: bytes) -> None:
    """A sealed file that somebody changed: opens for nobody. Anybody may seal another one to the same key."""
    for value in (data, SEALED[: len(data)] + data, SEALED[: -len(data)] + data):
        try:
            plain = opened(value, NODE_KEY, PURPOSE)
        except SealedStreamError:
            continue
        assert value == SEALED or not value.startswith(SEALED[:1250])
        assert plain == b"".join(encoded(BACKUP)) or value != SEALED


@dataclass(frozen=True)
class Target:
    """One function, and inputs to begin with."""

    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


BACKUP = Backup("swarm", 2, 1, 0.5, "1", {"cluster": b"c", "services/s": b"s"})
SEALED = b"".join(sealed(encoded(BACKUP), NODE_KEY.public, PURPOSE))
SEEDED = wrap(SIGNER, "link", 1, b"{}")
QUERY = bytes.fromhex("1234010000010000000000010764617461626173650000010001000029100000000000000000")
TARGETS = {
    "backup": Target(backup, (b"".join(encoded(BACKUP)),)),
    "compose-file": Target(compose_file, (b"services: {a: {links: [b], x-wireguard: {}}, b: {}}\n",)),
    "dns-question": Target(dns_question, (QUERY, QUERY[:-11])),
    "docker-settings": Target(docker_settings, (b'{"runtimes": {"a": {"path": "a"}}, "default-runtime": "a"}',)),
    "envelope": Target(envelope, (SEEDED, SEEDED[:40])),
    "etcd-answer": Target(etcd_answer, (bytes.fromhex("0a0408011803120a0a016b10011801200122016218002001"),)),
    "hosts-file": Target(
        hosts, (b"127.0.0.1 localhost\n", hosts_file.applied(b"", hosts_file.changes(b"", ENTRIES)))
    ),
    "record": Target(record, (b'leader\n{"format":1}',)),
    "sealed-backup": Target(sealed_backup, (b"", b"x")),
    "sealed-box": Target(sealed_box, (b"",)),
    "service-labels": Target(
        service_labels, (b"linkwire.links=db:d\nlinkwire.link.db.ports=1-2/tcp\nlinkwire.expose=1",)
    ),
    "state-file": Target(state_file, (state_encoding.pack([("a", b"b")]),)),
    "variables": Target(variables, (b"$A ${B:-c} $$ ${D:?e}",)),
}
