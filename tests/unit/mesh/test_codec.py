"""Records to bytes and back: every kind comes round, and what is not ours is an InvalidRecordError."""

import dataclasses
import json
import typing
from copy import deepcopy
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.crypto.hpke import NodeKey, NodePublicKey
from mesh.crypto.keys import PublicKey
from mesh.crypto.signed_envelope import SigningKey, VerifyKey
from mesh.errors import InvalidRecordError
from mesh.identity.attestation import NodeProof
from mesh.model import codec, keyspace
from mesh.model.asks.records import Ask, FlowAsk, Told, Watched
from mesh.model.audit.page import AuditPage
from mesh.model.codec import MAX_BYTES, decode, encode
from mesh.model.encryption.records import EncryptionWanted, NodeEncryption, Underlay
from mesh.model.encryption.status import EncryptionStatus
from mesh.model.labels.link_labels import LinkLabel
from mesh.model.labels.ports import PortRange
from mesh.model.net import IPAddress, UdpEndpoint
from mesh.model.records import (
    Access,
    Address,
    Attachment,
    Cluster,
    DeviceStatus,
    Endpoint,
    Kept,
    Leader,
    LinkKeyEpoch,
    ManifestRecord,
    Member,
    Node,
    PeerStatus,
    Port,
    Recall,
    Recalled,
    Record,
    Refused,
    SealedKey,
    SealedLinkKey,
    Service,
    Status,
    StoreSpace,
    TaskReport,
    Tenure,
    View,
)
from mesh.model.vault.records import ControllerKey, EpochHistory, Vault, VaultBox
from tests.unit.mesh import plain_codec

KEY = PublicKey(bytes(range(32)))
NODE_KEY = NodeKey(bytes(range(32))).public
REPORT_KEY = SigningKey(bytes(32)).verify_key
NODE = Node(
    id="n",
    hostname="host-1",
    sealing_key=NODE_KEY,
    report_key=REPORT_KEY,
    counter=3,
    proof=NodeProof((b"\x30\x82leaf", b"\x30\x82between"), b"\x00\xffsigned"),
    unproven=None,
    address=IPv4Address("10.0.0.1"),
    first_port=51820,
    last_port=52819,
    backend="kernel",
    version="0.1.0",
)
KEY_TEXT = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

ONE_OF_EACH: list[tuple[str, Record]] = [
    ("cluster", Cluster("c", IPv4Network("10.80.0.0/16"), IPv6Network("fd12:3456:789a::/96"))),
    ("leader", Leader("me")),
    ("asks/n1", Ask("n1", "ab12", b"[]")),
    ("told/n1/n2", Told("n1", "n2", "ab12", b"[]")),
    ("askflows/n1/0", FlowAsk("n1", 0, "ab12", "shop_web", ("n2", "n3"), ending=False)),
    ("watched/n2/n1/0/3", Watched("n2", "n1", 0, 3, "ab12", "cd34", 7, b"\x00\xff")),
    ("leader", Leader("me", "ab12")),
    ("tenure", Tenure("ab12", 7)),
    ("manifest", ManifestRecord(3, b"\x00\xff" * 16)),
    (
        "services/s",
        Service(
            "s",
            "shop_web",
            IPv4Address("10.80.0.2"),
            links=(
                LinkLabel("shop_db", ("db", "database"), (PortRange("tcp", 5432, 5433),), "shop_shop", 86400),
                LinkLabel("shop_cache", ("cache",)),
            ),
            expose=(PortRange("udp", 53, 53),),
            strict=True,
            dnsrr=False,
            elsewhere=(Attachment("ingress", IPv4Address("10.0.0.7")),),
        ),
    ),
    (
        "endpoints/s/t",
        Endpoint(
            service="s",
            task="t",
            slot=1,
            node="n",
            address=IPv4Address("10.80.0.3"),
            public_key=KEY,
            epoch=0,
            underlay=UdpEndpoint(IPv6Address("fd00::1"), 51820),
            ready=True,
            elsewhere=(
                Attachment("bridge", IPv4Address("172.17.0.2")),
                Attachment("bridge", IPv6Address("fd00:17::2")),
            ),
        ),
    ),
    ("keys/n/t", SealedKey("t", "n", 0, NODE_KEY.fingerprint, b"\x00\xffsealed")),
    ("epochs/shop_shop", LinkKeyEpoch("shop_shop", 1_800_000_000, 1_800_000_000, ("1", "2"))),
    ("controllers/n", ControllerKey("n", NODE_KEY)),
    ("vault", Vault("ab", "cd", first=True, boxes=(VaultBox("n", NODE_KEY.fingerprint, b"sealed"),))),
    ("vaults/shop_web", EpochHistory("shop_web", 5, (), forgotten=True, vault="ab", kept=b"kept")),
    ("vaults/shop_shop", EpochHistory("shop_shop", 5, ("n@2026-11-28",))),
    ("linkkeys/n/shop_web:shop_db", SealedLinkKey("shop_web:shop_db", "n", 5, NODE_KEY.fingerprint, b"sealed")),
    ("addresses/10.80.0.3", Address(IPv4Address("10.80.0.3"), "task/t")),
    ("addresses/10.80.0.4", Address(IPv4Address("10.80.0.4"), None, "shop")),
    ("ports/n/51820", Port("n", 51820, "t")),
    ("nodes/n", NODE),
    ("nodes/n", dataclasses.replace(NODE, proof=None, unproven="locked")),
    ("nodes/n", dataclasses.replace(NODE, own_user=True)),
    ("nodes/n", dataclasses.replace(NODE, encryption_key=KEY, encryption_port=51819)),
    ("encryptionwanted", EncryptionWanted(1_800_000_000)),
    ("encryption", NodeEncryption("strict", "send", 4789, 7)),
    ("peers/n", Underlay("n", KEY, UdpEndpoint(IPv4Address("10.0.0.1"), 51819))),
    ("vitals/n", Status("n", 1234.5, (), encryption=EncryptionStatus(7, "off", 2, 1, 3, "no kernel module"))),
    ("access", Access(("n", "m"), ("m",), ("-----BEGIN CERTIFICATE-----",))),
    ("access", Access(("n",), (), (), ("m@2026-11-28",))),
    ("members/n", Member("n", NODE_KEY, REPORT_KEY, 3)),
    ("recall", Recall("n")),
    ("recalled/n/2", Recalled("n", "m", 2, 3, (Kept("services/s", b"signed"),))),
    ("tasks/n/t", TaskReport("t", "s", "n", "running", wired=True, error=None, port_taken=None, elsewhere=())),
    ("space", StoreSpace(30, 20, 50, short=True)),
    ("space", StoreSpace(30, 20, 50, short=True, barred=("n",))),
    ("views/n/1", View("n", 1, 2, 1234.5, b"packed")),
    ("audit/routine/0007", AuditPage("routine", 1031, b"\x00\xff", 1234.5, "manager-1", b"packed")),
    (
        "vitals/n",
        Status(
            "n",
            1234.5,
            (
                DeviceStatus("t", KEY, (PeerStatus(KEY, 1.5, 10, 20, "10.0.0.1:51820"),), (Refused("in", "s", 3),)),
                DeviceStatus("u", None, (), ()),
            ),
            b"signed",
            "not what was signed",
        ),
    ),
]


def records() -> st.SearchStrategy[Record]:
    """Any record of any kind, with any text, number and address that its fields allow."""
    st.register_type_strategy(PublicKey, st.builds(PublicKey, st.binary(min_size=32, max_size=32)))
    st.register_type_strategy(NodePublicKey, st.just(NODE_KEY))
    st.register_type_strategy(VerifyKey, st.just(REPORT_KEY))
    st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))
    st.register_type_strategy(typing.cast("type", IPAddress), st.ip_addresses())
    spans = st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(sorted)
    st.register_type_strategy(
        PortRange, st.builds(lambda p, span: PortRange(p, *span), st.sampled_from(["tcp", "udp"]), spans)
    )
    return st.one_of([st.from_type(kind) for kind in keyspace.KINDS.values()])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def changed(record: Record, **fields: Any) -> bytes:  # noqa: ANN401 - any JSON
    """Write a record with some of its top fields replaced, or removed where the value is `...`."""
    plain = json.loads(encode(record)) | fields
    return json.dumps({name: value for name, value in plain.items() if value is not ...}).encode()


def test_there_is_one_of_each() -> None:
    assert {type(record) for _, record in ONE_OF_EACH} == set(keyspace.KINDS.values())
    assert len(keyspace.KINDS) == 31


@pytest.mark.parametrize(
    ("written", "key"),
    [
        (keyspace.service("s"), "services/s"),
        (keyspace.endpoint("s", "t"), "endpoints/s/t"),
        (keyspace.sealed_key("n", "t"), "keys/n/t"),
        (keyspace.epoch("shop_shop"), "epochs/shop_shop"),
        (keyspace.link_key("n", "shop_web:shop_db"), "linkkeys/n/shop_web:shop_db"),
        (keyspace.address("10.80.0.3"), "addresses/10.80.0.3"),
        (keyspace.port("n", 51820), "ports/n/51820"),
        (keyspace.node("n"), "nodes/n"),
        (keyspace.member("n"), "members/n"),
        (keyspace.report("n", "t"), "tasks/n/t"),
        (keyspace.underlay("n"), "peers/n"),
        (keyspace.recalled("n", 2), "recalled/n/2"),
        (keyspace.status("n"), "vitals/n"),
        (keyspace.view("n", 1), "views/n/1"),
    ],
)
def test_a_key_can_be_had_without_its_record(written: str, key: str) -> None:
    assert written == key in dict(ONE_OF_EACH)


AGENTS = {
    *("asks/n1", "told/n1/n2", "nodes/n", "recalled/n/2", "tasks/n/t", "vitals/n", "views/n/1"),
    *("askflows/n1/0", "watched/n2/n1/0/3"),
}
NOBODYS = {"leader", "space", "tenure"}
COVERED = {"cluster", "services/s", "endpoints/s/t", "epochs/shop_shop", "encryption", "peers/n"}


@pytest.mark.parametrize("key", [*dict(ONE_OF_EACH), "unknown/x", "", "cluster/x", "clusters", "services"])
def test_each_kind_has_its_writer_and_coverage(key: str) -> None:
    writer = "agent" if key in AGENTS else "anybody" if key in NOBODYS else "controller"
    assert keyspace.writer(key) == writer
    assert keyspace.covered(key) == (key in COVERED)


@pytest.mark.parametrize(("key", "record"), ONE_OF_EACH)
def test_each_kind_comes_round_under_its_key(key: str, record: Record) -> None:
    assert keyspace.key_of(record) == key
    assert decode(key, encode(record)) == record


@given(record=records())
def test_any_record_comes_round(record: Record) -> None:
    read = decode(keyspace.key_of(record), encode(record))
    assert read == record
    assert type(read) is type(record)
    assert hash(read) == hash(record)


@given(one=records(), other=records())
def test_equal_bytes_under_one_key_are_equal_records(one: Record, other: Record) -> None:
    same = keyspace.key_of(one) == keyspace.key_of(other) and encode(one) == encode(other)
    assert same == (one == other)


def test_everything_and_nothing_exposed_are_two_things() -> None:
    cases: tuple[tuple[tuple[()] | None, bytes], ...] = ((None, b'"expose":null'), ((), b'"expose":[]'))
    for expose, written in cases:
        service = of("services/s")
        assert isinstance(service, Service)
        service = dataclasses.replace(service, expose=expose)
        assert written in encode(service)
        assert decode("services/s", encode(service)) == service


def test_the_form_on_disk() -> None:
    assert encode(Address(IPv4Address("10.80.0.3"), None)) == b'{"address":"10.80.0.3","holder":null,"v":1}'
    assert encode(SealedKey("t", "n", 2, "ab12", b"box")) == (
        b'{"epoch":2,"node":"n","sealed":"Ym94","sealed_to":"ab12","task":"t","v":1}'
    )


def of(key: str) -> Record:
    return dict(ONE_OF_EACH)[key]


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("", b"{}", ": no record of ours lies under this key"),
        ("leaders", b"{}", "leaders: no record of ours lies under this key"),
        ("unknown/x", b"{}", "unknown/x: no record of ours lies under this key"),
        ("leader", b"", "leader: not JSON"),
        ("leader", b"\xff\xfe", "leader: not JSON"),
        ("leader", b"{", "leader: not JSON"),
        ("leader", b"[" * 100_000, "leader: not JSON"),
        ("leader", b"1" * 5000, "leader: not JSON"),
        ("leader", b"[]", "leader: not a record of format 1"),
        ("leader", b"null", "leader: not a record of format 1"),
        ("leader", b'{"holder":"me"}', "leader: not a record of format 1"),
        ("nodes/n", changed(NODE, own_user=False), "nodes/n: Missing or unknown: own_user - at `$`"),
        ("leader", changed(of("leader"), v=2), "leader: not a record of format 1"),
        ("leader", changed(of("leader"), v="1"), "leader: not a record of format 1"),
        ("leader", changed(of("leader"), holder=...), "leader: Object missing required field `holder`"),
        ("leader", changed(of("leader"), term=3), "leader: Missing or unknown: term - at `$`"),
        ("leader", changed(of("leader"), holder=None), "Expected `str`, got `null` - at `$.holder`"),
        ("leader", changed(of("leader"), holder=1), "Expected `str`, got `int` - at `$.holder`"),
        ("ports/n/51820", changed(of("ports/n/51820"), port="51820"), "Expected `int`, got `str` - at `$.port`"),
        ("ports/n/51820", changed(of("ports/n/51820"), port=51820.0), "Expected `int`, got `float` - at `$.port`"),
        ("ports/n/1", changed(of("ports/n/51820"), port=True), "Expected `int`, got `bool` - at `$.port`"),
        ("endpoints/s/t", changed(of("endpoints/s/t"), ready=1), "Expected `bool`, got `int` - at `$.ready`"),
        ("endpoints/s/t", changed(of("endpoints/s/t"), address="10.80.0.300"), "Not a IPv4Address - at `$.address`"),
        ("endpoints/s/t", changed(of("endpoints/s/t"), address="fd00::1"), "Not a IPv4Address - at `$.address`"),
        ("endpoints/s/t", changed(of("endpoints/s/t"), address=1), "Expected text - at `$.address`"),
        (
            "endpoints/s/t",
            changed(of("endpoints/s/t"), public_key=KEY_TEXT[:-4]),
            "Not a PublicKey - at `$.public_key`",
        ),
        (
            "endpoints/s/t",
            changed(of("endpoints/s/t"), underlay="10.0.0.1:1"),
            "Expected `object`, got `str` - at `$.underlay`",
        ),
        (
            "endpoints/s/t",
            changed(of("endpoints/s/t"), underlay={"host": "x", "port": 1}),
            "Not a IPAddress - at `$.underlay.host`",
        ),
        ("cluster", changed(of("cluster"), subnet="10.80.0.1/16"), "Not a IPv4Network - at `$.subnet`"),
        ("keys/n/t", changed(of("keys/n/t"), sealed="!"), "Invalid base64 encoded string - at `$.sealed`"),
        ("keys/n/t", changed(of("keys/n/t"), sealed="ä"), "Invalid base64 encoded string - at `$.sealed`"),
        ("services/s", changed(of("services/s"), links={}), "Expected `array`, got `object` - at `$.links`"),
        ("services/s", changed(of("services/s"), links=[1]), "Expected `object`, got `int` - at `$.links[0]`"),
        (
            "services/s",
            changed(of("services/s"), expose=[{"protocol": "tcp", "first": 2, "last": 1}]),
            "the range runs backwards",
        ),
        ("services/s", changed(of("services/s"), expose=[{"protocol": "sctp", "first": 1, "last": 2}]), "protocol"),
        ("services/s", changed(of("services/s"), expose=80), "Expected `array | null`, got `int` - at `$.expose`"),
        (
            "services/s",
            changed(of("services/s"), elsewhere=[{"network": "x"}]),
            "missing required field `address` - at `$.elsewhere[0]`",
        ),
        (
            "endpoints/s/t",
            changed(of("endpoints/s/t"), elsewhere=[{"network": "x", "address": "10.0.0.1/24"}]),
            "Not a IPAddress - at `$.elsewhere[0].address`",
        ),
        ("cluster", changed(of("cluster"), subnet6="fd12::1/96"), "Not a IPv6Network - at `$.subnet6`"),
        ("cluster", changed(of("cluster"), subnet6=...), "missing required field `subnet6`"),
        (
            "vitals/n",
            changed(
                of("vitals/n"),
                devices=[{"peers": [], "public_key": None, "refused": [{"direction": "in"}], "task": "t"}],
            ),
            "missing required field `service` - at `$.devices[0].refused[0]`",
        ),
        ("tasks/n/t", changed(of("tasks/n/t"), state="asleep"), " - at `$.state`"),
        ("tasks/n/t", changed(of("tasks/n/t"), state=["running"]), " - at `$.state`"),
        ("tasks/n/t", changed(of("tasks/n/t"), error=3), "Expected `str | null`, got `int` - at `$.error`"),
        ("vitals/n", changed(of("vitals/n"), written="now"), " - at `$.written`"),
        (
            "vitals/n",
            changed(of("vitals/n"), devices=[{}]),
            "missing required field `task` - at `$.devices[0]`",
        ),
        ("vitals/n", changed(of("vitals/n"), written=10**400), " - at `$.written`"),
        ("vitals/n", encode(of("vitals/n")).replace(b"1234.5", b"1e999"), " - at `$.written`"),
        ("vitals/n", encode(of("vitals/n")).replace(b"1234.5", b"NaN"), "not JSON"),
        ("vitals/n", encode(of("vitals/n")).replace(b"1234.5", b"-Infinity"), "not JSON"),
        ("nodes/n", encode(of("nodes/n")).replace(b"host-1", b"\\ud800"), "JSON is malformed"),
        ("leader", encode(of("leader")).decode().encode("utf-16"), "leader: not JSON"),
        ("leader", changed(of("leader"), v=True), "leader: not a record of format 1"),
        ("leader", b'{"v":1,"holder":"me","holder":"you"}', "leader: not JSON"),
        ("leader", encode(of("cluster")), "leader: Object missing required field `holder`"),
        ("ports/n/1", encode(of("ports/n/51820")), "holds the record that belongs under ports/n/51820"),
        ("keys/m/t", encode(of("keys/n/t")), "holds the record that belongs under keys/n/t"),
        ("leader/x", encode(of("leader")), "leader/x: "),
        ("nodes/n/", encode(of("nodes/n")), "nodes/n/: "),
        ("leader", encode(of("leader")) + b" " * MAX_BYTES, "bytes is more than any record of ours"),
    ],
)
def test_what_is_not_ours_is_named(key: str, value: bytes, reason: str) -> None:
    with pytest.raises(InvalidRecordError) as caught:
        decode(key, value)
    assert reason in str(caught.value)
    assert str(caught.value).startswith(f"{key}: ")


def test_integers_are_accepted_for_floats() -> None:
    status = decode("vitals/n", changed(of("vitals/n"), written=7))
    assert isinstance(status, Status)
    assert repr(status.written) == "7.0"


def only_invalid(key: str, value: bytes) -> None:
    """Fail if decoding raises anything but InvalidRecordError, or gives a record that is not the key's."""
    try:
        record = decode(key, value)
    except InvalidRecordError:
        return
    assert keyspace.key_of(record) == key


keys = st.sampled_from([key for key, _ in ONE_OF_EACH]) | st.text()


@given(key=keys, value=st.binary())
def test_any_bytes_are_a_record_or_invalid(key: str, value: bytes) -> None:
    only_invalid(key, value)


@given(key=keys, value=json_values)
def test_any_json_is_a_record_or_invalid(key: str, value: object) -> None:
    only_invalid(key, json.dumps(value).encode())
    if isinstance(value, dict):
        only_invalid(key, json.dumps(value | {"v": 1}).encode())


@given(data=st.data())
def test_record_with_replaced_field_is_valid_or_refused(data: st.DataObject) -> None:
    key, record = data.draw(st.sampled_from(ONE_OF_EACH))
    name = data.draw(st.sampled_from([field.name for field in dataclasses.fields(record)]))
    only_invalid(key, changed(record, **{name: data.draw(json_values)}))


@given(data=st.data())
def test_record_with_changed_byte_is_valid_or_refused(data: st.DataObject) -> None:
    key, record = data.draw(st.sampled_from(ONE_OF_EACH))
    value = bytearray(encode(record))
    value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    only_invalid(key, bytes(value))


@pytest.mark.parametrize("sealed", [1, None, ["c2VjcmV0"], "c2VjcmV0!", {"c2VjcmV0": "c2VjcmV0"}])
def test_invalid_sealed_key_is_not_quoted(sealed: object) -> None:
    with pytest.raises(InvalidRecordError) as caught:
        decode("keys/n/t", changed(of("keys/n/t"), sealed=sealed))
    assert "c2VjcmV0" not in str(caught.value)


def agreed(key: str, value: bytes) -> None:
    """Fail if the codec and the plain one read a value in two ways. 1, 1.0 and True are equal and not the same."""
    try:
        plain = repr(plain_codec.decode(key, value))
    except ValueError:
        plain = None
    try:
        record = repr(decode(key, value))
    except InvalidRecordError:
        record = None
    assert record == plain, (key, value)


@pytest.mark.parametrize(("key", "record"), ONE_OF_EACH)
def test_each_kind_is_parsed_once(key: str, record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    value = encode(record)
    monkeypatch.delattr(codec, "_parse")  # what says what is wrong
    assert decode(key, value) == record


@given(record=records())
def test_any_record_is_written_as_ever(record: Record) -> None:
    assert encode(record) == plain_codec.encode(record)
    agreed(keyspace.key_of(record), encode(record))


@pytest.mark.parametrize("number", [0.0, -0.0, 1e-5, 1e16, 1.5e22, 5e-324, 1784567890.123456, 7])
@pytest.mark.parametrize("text", ["\x00\n\x1f", '"\\/', "\x7f", "\x80é\u2028", "\U0001f600"])
def test_odd_numbers_and_texts_are_written_as_ever(number: float, text: str) -> None:
    status = Status("n", number, (), b"", text)
    assert encode(status) == plain_codec.encode(status)
    assert encode(status).isascii(), "so that no reader has to know of an encoding"
    assert decode("vitals/n", encode(status)) == status


TEXTS = (
    *(
        "",
        "0",
        "1.2.3.4",
        "01.2.3.4",
        "1.2.3",
        "1.2.3.4.5",
        "1.2.3.256",
        "1.2.3.4/32",
        "+1.2.3.4",
        "1.2.3.\u0664",
        " 1.2.3.4",
    ),
    *(
        "::",
        "fd00::1",
        "::ffff:1.2.3.4",
        "fe80::1%eth0",
        "10.0.0.0/8",
        "10.0.0.1/8",
        "fd00::/96",
        "tcp",
        "in",
        "running",
    ),
    *("QQ==", "QR==", "QQ=", "QQ", "=QQ=", "QQ==QQ==", "Q Q=", "QQ==\n", "QUJD", "QUJ_", "\ud800", "\U0001f600"),
    *(KEY_TEXT, KEY_TEXT[:-1], KEY_TEXT + "=", str(NODE_KEY), str(NODE_KEY)[:-4], str(REPORT_KEY), "A" * 43 + "="),
)
NUMBERS: tuple[object, ...] = (
    0,
    1,
    -1,
    True,
    False,
    None,
    2**53,
    2**53 + 1,
    10**400,
    0.0,
    -0.0,
    0.5,
    1e308 * 10,
    [],
    {},
    ["a"],
)
odd_values = st.sampled_from([*TEXTS, *NUMBERS]).map(deepcopy) | json_values  # what is drawn is changed here


def spots(plain: Any) -> list[tuple[Any, Any]]:  # noqa: ANN401 - any JSON
    """Every place in JSON: what holds it, and where there."""
    inside = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    return [spot for at, one in inside for spot in [(plain, at), *spots(one)]]


@pytest.mark.parametrize(("key", "record"), ONE_OF_EACH)
def test_any_odd_value_anywhere_is_read_as_plainly(key: str, record: Record) -> None:
    plain = json.loads(encode(record))
    for holder, at in spots(plain):
        was = holder[at]
        for odd in (*TEXTS, *NUMBERS, *([text] for text in TEXTS)):
            holder[at] = odd
            agreed(key, json.dumps(plain).encode())
        holder[at] = was
        if isinstance(was, dict):
            for name in ("x", *was):
                agreed(
                    key,
                    json.dumps(plain).replace(json.dumps(was), json.dumps(was)[:-1] + f', "{name}": 1}}').encode(),
                )
    agreed(key, encode(record))


@settings(max_examples=1000)
@given(data=st.data())
def test_an_odd_record_is_read_as_plainly(data: st.DataObject) -> None:
    key, record = data.draw(st.sampled_from(ONE_OF_EACH))
    plain = json.loads(encode(record))
    for _ in range(data.draw(st.integers(1, 2))):
        holder, at = data.draw(st.sampled_from(spots(plain)) if plain else st.just((plain, "x")))
        match data.draw(st.integers(0, 3)):
            case 0 if isinstance(holder, dict):
                holder.pop(at, None)
            case 1 if isinstance(holder, dict):
                holder[data.draw(st.sampled_from(["x", "own_user", "manifest", "held"]))] = data.draw(odd_values)
            case _:
                holder[at] = data.draw(odd_values)
    in_order = data.draw(st.booleans())
    agreed(key, json.dumps(plain, separators=(",", ":") if in_order else None, sort_keys=in_order).encode())


PIECES = [
    b'"v":1,',
    b'"own_user":false,',
    b"1",
    b".0",
    b"e2",
    b"-",
    b" ",
    b"\\",
    b"\\u00e9",
    "é".encode(),
    b"\xed\xa0\x80",
]


@settings(max_examples=1000)
@given(data=st.data())
def test_a_damaged_record_is_read_as_plainly(data: st.DataObject) -> None:
    key, record = data.draw(st.sampled_from(ONE_OF_EACH))
    value = encode(record)
    start = data.draw(st.integers(0, len(value)))
    end = data.draw(st.integers(start, min(len(value), start + 3)))
    agreed(key, value[:start] + data.draw(st.sampled_from(PIECES) | st.binary(max_size=3)) + value[end:])
