"""Records to bytes and back: every kind comes round, and what is not ours is an InvalidRecord and nothing else."""

import dataclasses
import json
import typing
from copy import deepcopy
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh import codec, keyspace
from mesh.codec import MAX_BYTES, decode, encode
from mesh.envelope import SigningKey, VerifyKey
from mesh.errors import InvalidRecord, LinkwireError
from mesh.hybrid import NodeKey, NodePublicKey
from mesh.keys import PublicKey
from mesh.labels import LinkLabel
from mesh.net import IPAddress, UdpEndpoint
from mesh.ports import PortRange
from mesh.proof import NodeProof
from mesh.readers import Odd, reader
from mesh.records import (
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
    View,
)

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
    ("linkkeys/n/shop_web:shop_db", SealedLinkKey("shop_web:shop_db", "n", 5, NODE_KEY.fingerprint, b"sealed")),
    ("addresses/10.80.0.3", Address(IPv4Address("10.80.0.3"), "task/t")),
    ("ports/n/51820", Port("n", 51820, "t")),
    ("nodes/n", NODE),
    ("nodes/n", dataclasses.replace(NODE, proof=None, unproven="locked")),
    ("nodes/n", dataclasses.replace(NODE, own_user=True)),
    ("access", Access(("n", "m"), ("m",), ("-----BEGIN CERTIFICATE-----",))),
    ("members/n", Member("n", NODE_KEY, REPORT_KEY, 3)),
    ("recall", Recall("n")),
    ("recalled/n/2", Recalled("n", "m", 2, 3, (Kept("services/s", b"signed"),))),
    ("tasks/n/t", TaskReport("t", "s", "n", "running", wired=True, error=None, port_taken=None, elsewhere=())),
    ("space", StoreSpace(30, 20, 50, short=True)),
    ("views/n/1", View("n", 1, 2, 1234.5, b"packed")),
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
    spans = st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(sorted)
    st.register_type_strategy(
        PortRange, st.builds(lambda p, span: PortRange(p, *span), st.sampled_from(["tcp", "udp"]), spans)
    )
    kinds: tuple[type[Record], ...] = typing.get_args(Record)
    return st.one_of([st.from_type(kind) for kind in kinds])


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
    assert {type(record) for _, record in ONE_OF_EACH} == set(typing.get_args(Record)) == set(keyspace.KINDS.values())


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
        ("nodes/n", changed(NODE, own_user=False), "nodes/n: record: own_user is left out where it is False"),
        ("leader", changed(of("leader"), v=2), "leader: not a record of format 1"),
        ("leader", changed(of("leader"), v="1"), "leader: not a record of format 1"),
        ("leader", changed(of("leader"), holder=...), "leader: record: missing or unknown: holder"),
        ("leader", changed(of("leader"), term=3), "leader: record: missing or unknown: term"),
        ("leader", changed(of("leader"), holder=None), "leader: holder: str was expected"),
        ("leader", changed(of("leader"), holder=1), "leader: holder: str was expected"),
        ("ports/n/51820", changed(of("ports/n/51820"), port="51820"), "port: int was expected"),
        ("ports/n/51820", changed(of("ports/n/51820"), port=51820.0), "port: int was expected"),
        ("ports/n/1", changed(of("ports/n/51820"), port=True), "port: int was expected"),
        ("endpoints/s/t", changed(of("endpoints/s/t"), ready=1), "ready: bool was expected"),
        ("endpoints/s/t", changed(of("endpoints/s/t"), address="10.80.0.300"), "address: not a IPv4Address"),
        ("endpoints/s/t", changed(of("endpoints/s/t"), address="fd00::1"), "address: not a IPv4Address"),
        ("endpoints/s/t", changed(of("endpoints/s/t"), address=1), "address: text was expected"),
        ("endpoints/s/t", changed(of("endpoints/s/t"), public_key=KEY_TEXT[:-4]), "public_key: not a PublicKey"),
        ("endpoints/s/t", changed(of("endpoints/s/t"), underlay="10.0.0.1:1"), "underlay: an object was expected"),
        ("endpoints/s/t", changed(of("endpoints/s/t"), underlay={"host": "x", "port": 1}), "underlay.host: not a"),
        ("cluster", changed(of("cluster"), subnet="10.80.0.1/16"), "subnet: not a IPv4Network"),
        ("keys/n/t", changed(of("keys/n/t"), sealed="!"), "sealed: not a bytes"),
        ("keys/n/t", changed(of("keys/n/t"), sealed="ä"), "sealed: not a bytes"),
        ("services/s", changed(of("services/s"), links={}), "links: a list was expected"),
        ("services/s", changed(of("services/s"), links=[1]), "links[0]: an object was expected"),
        (
            "services/s",
            changed(of("services/s"), expose=[{"protocol": "tcp", "first": 2, "last": 1}]),
            "the range runs backwards",
        ),
        ("services/s", changed(of("services/s"), expose=[{"protocol": "sctp", "first": 1, "last": 2}]), "protocol"),
        ("services/s", changed(of("services/s"), expose=80), "expose: a list was expected"),
        (
            "services/s",
            changed(of("services/s"), elsewhere=[{"network": "x"}]),
            "elsewhere[0]: missing or unknown: address",
        ),
        (
            "endpoints/s/t",
            changed(of("endpoints/s/t"), elsewhere=[{"network": "x", "address": "10.0.0.1/24"}]),
            "elsewhere[0].address: not a IPv6Address",
        ),
        ("cluster", changed(of("cluster"), subnet6="fd12::1/96"), "subnet6: not a IPv6Network"),
        ("cluster", changed(of("cluster"), subnet6=...), "missing or unknown: subnet6"),
        (
            "vitals/n",
            changed(
                of("vitals/n"),
                devices=[{"peers": [], "public_key": None, "refused": [{"direction": "up"}], "task": "t"}],
            ),
            "devices[0].refused[0]: missing or unknown: packets, service",
        ),
        ("tasks/n/t", changed(of("tasks/n/t"), state="asleep"), "state: "),
        ("tasks/n/t", changed(of("tasks/n/t"), state=["running"]), "state: "),
        ("tasks/n/t", changed(of("tasks/n/t"), error=3), "error: str was expected"),
        ("vitals/n", changed(of("vitals/n"), written="now"), "written: float was expected"),
        (
            "vitals/n",
            changed(of("vitals/n"), devices=[{}]),
            "devices[0]: missing or unknown: peers, public_key, refused, task",
        ),
        ("vitals/n", changed(of("vitals/n"), written=10**400), "written: float was expected"),
        ("vitals/n", encode(of("vitals/n")).replace(b"1234.5", b"1e999"), "written: float was expected"),
        ("vitals/n", encode(of("vitals/n")).replace(b"1234.5", b"NaN"), "not JSON"),
        ("vitals/n", encode(of("vitals/n")).replace(b"1234.5", b"-Infinity"), "not JSON"),
        ("nodes/n", encode(of("nodes/n")).replace(b"host-1", b"\\ud800"), "hostname: half a character"),
        ("leader", encode(of("leader")).decode().encode("utf-16"), "leader: not JSON"),
        ("leader", changed(of("leader"), v=True), "leader: not a record of format 1"),
        ("leader", b'{"v":1,"holder":"me","holder":"you"}', "leader: not JSON"),
        ("leader", encode(of("cluster")), "leader: record: missing or unknown"),
        ("ports/n/1", encode(of("ports/n/51820")), "holds the record that belongs under ports/n/51820"),
        ("keys/m/t", encode(of("keys/n/t")), "holds the record that belongs under keys/n/t"),
        ("leader/x", encode(of("leader")), "leader/x: "),
        ("nodes/n/", encode(of("nodes/n")), "nodes/n/: "),
        ("leader", encode(of("leader")) + b" " * MAX_BYTES, "bytes is more than any record of ours"),
    ],
)
def test_what_is_not_ours_is_named(key: str, value: bytes, reason: str) -> None:
    with pytest.raises(InvalidRecord) as caught:
        decode(key, value)
    assert reason in str(caught.value)
    assert str(caught.value).startswith(f"{key}: ")


def test_whole_numbers_are_good_where_a_fraction_may_be() -> None:
    status = decode("vitals/n", changed(of("vitals/n"), written=7))
    assert isinstance(status, Status)
    assert repr(status.written) == "7.0"


def only_invalid(key: str, value: bytes) -> None:
    """Fail if decoding raises anything but InvalidRecord, or gives a record that is not the key's."""
    try:
        record = decode(key, value)
    except InvalidRecord:
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
def test_a_record_with_any_one_field_replaced_is_a_record_or_invalid(data: st.DataObject) -> None:
    key, record = data.draw(st.sampled_from(ONE_OF_EACH))
    name = data.draw(st.sampled_from([field.name for field in dataclasses.fields(record)]))
    only_invalid(key, changed(record, **{name: data.draw(json_values)}))


@given(data=st.data())
def test_a_record_with_a_byte_changed_is_a_record_or_invalid(data: st.DataObject) -> None:
    key, record = data.draw(st.sampled_from(ONE_OF_EACH))
    value = bytearray(encode(record))
    value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    only_invalid(key, bytes(value))


@pytest.mark.parametrize("sealed", [1, None, ["c2VjcmV0"], "c2VjcmV0!", {"c2VjcmV0": "c2VjcmV0"}])
def test_a_sealed_key_that_is_not_valid_is_not_quoted(sealed: object) -> None:
    with pytest.raises(InvalidRecord) as caught:
        decode("keys/n/t", changed(of("keys/n/t"), sealed=sealed))
    assert "c2VjcmV0" not in str(caught.value)


def quickly(kind: Any, plain: object) -> str | None:  # noqa: ANN401 - any hint of a record's
    """What a quick reader makes of JSON, shown whole: 1, 1.0 and True are equal and not the same."""
    try:
        return repr(reader(kind)(plain))
    except (Odd, ValueError, LinkwireError):
        return None


def plainly(kind: Any, plain: object) -> str | None:  # noqa: ANN401 - as above
    try:
        return repr(codec._read(kind, plain, ""))
    except (ValueError, LinkwireError):
        return None


def without_version(value: bytes) -> dict[str, Any]:
    plain = json.loads(value)
    return {name: field for name, field in plain.items() if name != "v"}


@pytest.mark.parametrize(("key", "record"), ONE_OF_EACH)
def test_each_kind_is_read_quickly(key: str, record: Record) -> None:
    assert quickly(type(record), without_version(encode(record))) == repr(record), key


@given(record=records(), kind=st.sampled_from(typing.get_args(Record)))
def test_what_is_read_quickly_is_what_is_read_plainly(record: Record, kind: type[Record]) -> None:
    plain = without_version(encode(record))
    for one in (type(record), kind):
        assert quickly(one, plain) in (None, plainly(one, plain))


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
HINTS = (
    *(
        str,
        int,
        bool,
        float,
        bytes,
        PublicKey,
        NodePublicKey,
        VerifyKey,
        IPv4Address,
        IPv6Address,
        IPv4Network,
        IPv6Network,
    ),
    *(
        IPAddress,
        IPv4Address | None,
        str | None,
        tuple[str, ...],
        tuple[int, ...] | None,
        typing.Literal["in", "tcp"],
    ),
)


@pytest.mark.parametrize("hint", HINTS, ids=str)
def test_a_value_that_is_read_quickly_is_what_is_read_plainly(hint: Any) -> None:  # noqa: ANN401 - any hint of a record's
    for plain in (*TEXTS, *NUMBERS, *([text] for text in TEXTS)):
        assert quickly(hint, plain) in (None, plainly(hint, plain)), plain


odd_values = st.sampled_from([*TEXTS, *NUMBERS]).map(deepcopy) | json_values  # what is drawn is changed here


def spots(plain: Any) -> list[tuple[Any, Any]]:  # noqa: ANN401 - any JSON
    """Every place in JSON: what holds it, and where there."""
    inside = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    return [spot for at, one in inside for spot in [(plain, at), *spots(one)]]


@settings(max_examples=1000)
@given(data=st.data())
def test_what_is_read_quickly_though_something_is_odd_is_what_is_read_plainly(data: st.DataObject) -> None:
    _, record = data.draw(st.sampled_from(ONE_OF_EACH))
    plain = without_version(encode(record))
    for _ in range(data.draw(st.integers(1, 2))):
        holder, at = data.draw(st.sampled_from(spots(plain)) if plain else st.just((plain, "x")))
        match data.draw(st.integers(0, 3)):
            case 0 if isinstance(holder, dict):
                holder.pop(at, None)
            case 1 if isinstance(holder, dict):
                holder[data.draw(st.sampled_from(["x", "own_user", "manifest", "held"]))] = data.draw(odd_values)
            case _:
                holder[at] = data.draw(odd_values)
    assert quickly(type(record), plain) in (None, plainly(type(record), plain))
