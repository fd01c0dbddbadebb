"""What strangers may write, mutated: nothing forged is accepted, nothing crashes.

LINKWIRE_FUZZ=1000000 says how many mutations, LINKWIRE_FUZZ_SEED which ones; every single one can be made again from
the seed, the target's name and its number, which a failure tells.
"""

from __future__ import annotations

import os
import random
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from ipaddress import IPv4Address

import pytest

from agent.state import state_encoding
from agent.state.recovery import recalled
from compose_ext.diagnostics import Report
from compose_ext.document.loader import Source, load
from compose_ext.language.override import compile_override
from compose_ext.language.override import dump as dump_override
from compose_ext.language.schema import read as read_schema
from compose_ext.language.validation import check
from controller.recovery import recall
from controller.trust.witnesses import Witness
from mesh.crypto.framing import framed
from mesh.crypto.hpke import DecryptionError, MalformedCiphertextError, NodeKey, seal, unseal
from mesh.crypto.multiset_hash import Entry
from mesh.crypto.signed_envelope import (
    InvalidSignatureError,
    Keyring,
    MalformedEnvelopeError,
    Signer,
    SigningKey,
    UnknownSignerError,
    UnsignedError,
    peek,
    unwrap,
    wrap,
)
from mesh.errors import InvalidRecordError
from mesh.identity.attestation import InvalidProofError, NodeProof, NodeStatement, make_proof, verify
from mesh.integrity.record_signing import RecordSigner
from mesh.integrity.verification import verify_snapshot
from mesh.model import codec, keyspace
from mesh.model.labels import link_labels
from mesh.model.labels.ports import PortRange
from mesh.model.records import Address, Endpoint, Kept, Recall, Recalled, Record
from mesh.model.snapshot import SignedSet, Snapshot, Versioned, Write
from mesh.store.follower import Batch, MaterializedView, RecordChange
from tests.support.swarm_ca import CLUSTER, MADE, NODE, Authority, Leaf, key_file, pem
from tests.unit.compose_ext.test_compose_language import SHOP
from tests.unit.mesh.test_codec import ONE_OF_EACH

COUNT = int(os.environ.get("LINKWIRE_FUZZ", "5000"))
SEED = os.environ.get("LINKWIRE_FUZZ_SEED", "1")

Outcome = str
"""`refused`, or `the same` for a mutation that came back to a genuine value."""


class AcceptedError(AssertionError):
    """Something was taken that nobody signed, or opened wider than it was written."""


# -- mutations ---------------------------------------------------------------------------------------

NUMBERS = (b"\0", b"\1", b"\x7f", b"\x80", b"\xff", b"\0\0\0\0", b"\xff\xff\xff\xff", bytes(8), b"\x7f" + b"\xff" * 7)


def mutated(chance: random.Random, value: bytes, others: Sequence[bytes], words: Sequence[bytes] = NUMBERS) -> bytes:
    """A few small changes, or a piece of another value, or both."""
    data = bytearray(value)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        at = chance.randrange(len(data) + 1)
        length = min(chance.choice((1, 1, 2, 4, 8, 16, 64)), len(data) - at)
        match chance.randrange(8):
            case 0 if length:
                data[at] ^= 1 << chance.randrange(8)
            case 1 if length:
                data[at] = chance.randrange(256)
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = data[at : at + length] or b"\0"
            case 4:
                word = chance.choice(words)
                data[at : at + (len(word) if chance.random() < 0.5 else 0)] = word
            case 5:
                other = chance.choice(others)
                start = chance.choice((at, chance.randrange(len(other) + 1)))
                data[at : at + length] = other[start : start + length]
            case 6:
                del data[at:]
            case _:
                data += chance.choice(words)
    return bytes(data)


# -- envelopes ---------------------------------------------------------------------------------------

SIGNER = Signer(CLUSTER, SigningKey(b"\1" * 32))
STRANGER = Signer(CLUSTER, SigningKey(b"\2" * 32))
RING = Keyring(CLUSTER, (SIGNER.key.verify_key,))
RECORDS: list[Record] = [*(record for _, record in ONE_OF_EACH), Address(IPv4Address("10.80.0.4"), None)]
SIGNED = [
    (keyspace.key_of(record), wrap(SIGNER, keyspace.key_of(record), generation, codec.encode(record)))
    for record in RECORDS
    for generation in (1, 2, 2**40)
]
GENUINE = frozenset(SIGNED)
VALUES = [value for _, value in SIGNED]


def an_envelope(chance: random.Random) -> Outcome:
    key, value = chance.choice(SIGNED)
    other_key, other = chance.choice(SIGNED)
    match chance.randrange(6):
        case 0:
            key = other_key  # put under another key
        case 1:
            body = other[32:-64]  # this one's header and signature about that one's body
            value = value[:28] + len(body).to_bytes(4, "big") + body + value[-64:]
        case 2:
            value = value[:20] + chance.randrange(1, 2**63).to_bytes(8, "big") + value[28:]
        case 3:
            forged = wrap(STRANGER, key, chance.randrange(1, 2**63), other[32:-64])
            value = chance.choice((forged, forged[:4] + value[4:20] + forged[20:]))
        case 4:
            at = chance.randrange(32, len(value) - 64)  # the body alone, so that only the signature can tell
            value = value[:at] + chance.randbytes(1) + value[at + 1 :]
        case _:
            value = mutated(chance, value, VALUES)
            key = (
                mutated(chance, key.encode(), [b"endpoints/s/t"]).decode(errors="replace")
                if chance.random() < 0.1
                else key
            )
    try:
        unwrap(RING, key, value)
    except (UnsignedError, MalformedEnvelopeError, UnknownSignerError, InvalidSignatureError) as error:
        if not str(error).startswith(f"{key}: "):
            raise AcceptedError(f"the error names another key: {error}") from error
        return "refused"
    if (key, value) not in GENUINE:
        raise AcceptedError(f"{key!r}: {value.hex()}")
    return "the same"


def a_record(chance: random.Random) -> Outcome:
    """A body that its signer wrote wrong: an older or newer version, or a bug."""
    key, value = chance.choice(SIGNED)
    body = mutated(chance, value[32:-64], [v[32:-64] for v in VALUES], WORDS)
    try:
        record = codec.decode(key, peek(key, wrap(SIGNER, key, 1, body)).body)
    except InvalidRecordError:
        return "refused"
    if keyspace.key_of(record) != key:
        raise AcceptedError(f"{key!r}: {body!r}")
    return "a record"


# -- signed sets: what an agent acts on, what a node brings back, what an agent has kept --------------


def a_set(generation: int, *changed: Record) -> dict[str, bytes]:
    """One state of a store as it was signed."""
    kept = {key: record for key, record in ONE_OF_EACH if keyspace.writer(key) == "controller"}
    kept = {key: record for key, record in kept.items() if key not in ("manifest", "recall")}
    kept |= {keyspace.key_of(record): record for record in changed}
    values = {key: wrap(SIGNER, key, generation, codec.encode(record)) for key, record in kept.items()}
    entries = [Entry.of(key, generation, value) for key, value in values.items()]
    manifest = codec.encode(SignedSet().after(entries, ()).record())
    return values | {"manifest": wrap(SIGNER, "manifest", generation, manifest)}


ENDPOINT = next(record for _, record in ONE_OF_EACH if isinstance(record, Endpoint))
OLD = a_set(7, replace(ENDPOINT, epoch=3))
NEW = a_set(9)
READER = RecordSigner.reader(RING)
PIECES = [*OLD.values(), *NEW.values()]


def opened(values: Iterable[tuple[str, bytes]]) -> Snapshot:
    """As `Store.opened`."""
    picture = MaterializedView(READER, with_raw=True)
    changes = [RecordChange(key.encode(errors="replace"), value, 0) for key, value in values]
    picture.replace(Batch(0, whole=True, changes=changes))
    return picture.snapshot(complete=True)


def meddled(chance: random.Random) -> dict[str, bytes]:
    """The new state, as who owns etcd leaves it: by far most of it is as it was."""
    values = dict(NEW)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        key = chance.choice(sorted(values))
        match chance.randrange(7):
            case 0:
                values[key] = mutated(chance, values[key], PIECES)
            case 1:
                del values[key]
            case 2:
                values[key] = chance.choice(PIECES)
            case 3 if key in OLD:
                values[key] = OLD[key]
            case 4:
                values["manifest"] = OLD["manifest"]
            case 5:
                forged = wrap(STRANGER, key, 10, values[key][32:-64])
                values[chance.choice((key, "endpoints/s/forged"))] = forged
            case _:
                values[mutated(chance, key.encode(), [b"endpoints/s/t"]).decode(errors="replace")] = values[key]
        if len(values) < 2:  # nothing left to meddle with
            break
    return values


def _believed(found: Snapshot) -> dict[str, bytes | None]:
    return {key: one.raw for key, one in found.records.items() if keyspace.covered(key)}


COVERED = {key: value for key, value in NEW.items() if keyspace.covered(key)}


def a_signed_set(chance: random.Random) -> Outcome:
    """What an agent acts on that has seen generation 8; one that has seen 9 takes no other of that generation."""
    values = meddled(chance)
    found = opened(values.items())
    if not verify_snapshot(found, 8, chance.choice((b"", OLD["manifest"]))).verified:
        return "refused"
    if _believed(found) != COVERED:
        raise AcceptedError(repr(sorted(values)))
    return "the same"


def an_answer(chance: random.Random) -> Outcome:
    """What a node brings back after a wipe, through the record that it comes in."""
    kept = tuple(Kept(key, value) for key, value in meddled(chance).items() if key.isprintable())
    parts = [Recalled("n", "n", number, 2, kept[number::2]) for number in range(2)]
    bodies = [
        mutated(chance, codec.encode(part), PIECES, WORDS) if chance.random() < 0.3 else codec.encode(part)
        for part in parts
    ]
    try:
        read = [codec.decode(f"recalled/n/{number}", body) for number, body in enumerate(bodies)]
    except InvalidRecordError:
        return "refused"
    told = {keyspace.key_of(part): Versioned(part, 1) for part in read}
    answer = recall.answers(Snapshot(1, True, told), "n", ["n"])
    if answer.missing:
        return "refused"
    found = opened(answer.values.items())
    changes, problem = recall.put_back(Snapshot(), found, Witness("n", 9, NEW["manifest"]))
    if problem:
        return "refused"
    written = {op.key: op.value for change in changes for op in change.ops if isinstance(op, Write)}
    if any(NEW.get(key) != value for key, value in written.items() if value not in OLD.values()):
        raise AcceptedError(repr(sorted(written)))
    if {key: value for key, value in written.items() if keyspace.covered(key)} != COVERED:
        raise AcceptedError(repr(sorted(written)))
    return "the same"


KEPT_FILE = state_encoding.pack(NEW.items())


def a_state_file(chance: random.Random) -> Outcome:
    """What an agent has kept on its disk."""
    content = mutated(chance, KEPT_FILE, [state_encoding.pack(OLD.items())], WORDS)
    try:
        found = opened(state_encoding.unpack(content))
    except ValueError:
        return "refused"
    if not verify_snapshot(found).verified:
        return "refused"
    if _believed(found) != COVERED:
        raise AcceptedError(content.hex())
    return "the same"


def an_agents_answer(chance: random.Random) -> Outcome:
    """What an agent is asked, by anybody: it brings back what it believes and nothing else."""
    body = mutated(chance, codec.encode(Recall("n")), PIECES, WORDS)
    try:
        asked = codec.decode("recall", body)
    except InvalidRecordError:
        return "refused"
    if not isinstance(asked, Recall):
        raise AcceptedError(repr(asked))
    parts = recalled(asked, "n", BELIEVED)
    values = {kept.key: kept.value for part in parts for kept in part.values}
    if any(NEW[key] != value or not keyspace.read_by(key, "n") for key, value in values.items()):
        raise AcceptedError(repr(asked))
    return "a record"


BELIEVED = opened(NEW.items())

# -- boxes and proofs ---------------------------------------------------------------------------------------

NODE_KEY = NodeKey(b"\3" * 32)
CONTEXTS = [framed("keys/n/t", "n", epoch) for epoch in range(3)]
BOXES = [(seal(bytes(32), NODE_KEY.public, context), context) for context in CONTEXTS for _ in range(3)]


def a_box(chance: random.Random) -> Outcome:
    box, context = chance.choice(BOXES)
    other, other_context = chance.choice(BOXES)
    match chance.randrange(3):
        case 0:
            at = chance.choice((1, 1089, 1121))
            box = box[:at] + other[at:]
        case 1:
            context = other_context
        case _:
            box = mutated(chance, box, [each for each, _ in BOXES])
    try:
        unseal(box, NODE_KEY, context)
    except (MalformedCiphertextError, DecryptionError):
        return "refused"
    if (box, context) not in BOXES:
        raise AcceptedError(box.hex())
    return "the same"


ROOT = Authority.root()
STATEMENTS = [
    NodeStatement(CLUSTER, node, NODE_KEY.public, SIGNER.key.verify_key, counter)
    for node in (NODE, "another")
    for counter in (0, 1)
]


def _proofs(signers: dict[str, str]) -> list[tuple[NodeProof, NodeStatement]]:
    """For every statement one that a node signed, given the node that it is about."""
    leaves = {node: Leaf.of(node=node) for node in (NODE, "another")}
    given = {node: pem(leaf.signed_by(ROOT)) for node, leaf in leaves.items()}
    by = [(signers[said.node], said) for said in STATEMENTS]
    return [(make_proof(given[signer], key_file(leaves[signer].key), said), said) for signer, said in by]


PROOFS = _proofs({NODE: NODE, "another": "another"})
ROGUE = _proofs({NODE: "another", "another": NODE})


def a_proof(chance: random.Random) -> Outcome:
    proof, statement = chance.choice(PROOFS)
    other, other_statement = chance.choice(PROOFS)
    certificates, signature = proof.certificates, proof.signature
    match chance.randrange(5):
        case 0:
            statement = other_statement
        case 4:
            rogue, statement = chance.choice(ROGUE)
            certificates, signature = rogue.certificates, rogue.signature
        case 1:
            certificates = other.certificates
        case 2:
            signature = mutated(chance, signature, [other.signature])
        case _:
            certificates = (mutated(chance, certificates[0], other.certificates), *other.certificates)
    tried = (NodeProof(certificates, signature), statement)
    try:
        verify(*tried, [ROOT.pem], MADE + timedelta(days=1))
    except InvalidProofError:
        return "refused"
    genuine = any(
        said == statement and (each.certificates[0], each.signature) == (certificates[0], signature)
        for each, said in PROOFS
    )
    if not genuine:
        raise AcceptedError(repr(tried))
    return "the same"


# -- labels and compose files ---------------------------------------------------------------------------------------

WORDS = (
    *b"null true false -1 0 65536 1e999 [] {} \" ' , : - / # & * ! | > % @ ` \n \t \\ $ ${X} ${X:?} << ? = ~".split(
        b" "
    ),
    *b"tcp udp linkwire. links expose strict x-wireguard services ports key keys rotate".split(b" "),
    *(b"\xff", b"\xc3\xa9", b"\xe2\x80\xae", b" ", b"\n  ", b"\r\n", b"\0", b"a" * 300),
)
LABELS = [
    {
        "linkwire.links": "shop_db:db,shop_db:database,shop_cache",
        "linkwire.link.shop_db.ports": "5432/tcp,9000-9010/udp",
        "linkwire.link.shop_cache.ports": "6379",
        "linkwire.link.shop_db.key": "shop_shop",
        "linkwire.link.shop_db.rotate": "24h",
    },
    {
        "linkwire.links": "a:b",
        "linkwire.link.a.ports": "1-2",
        "linkwire.expose": "5432/tcp",
        "linkwire.strict": "false",
        "linkwire.allow": "proxy,blog_web,a_b_*",
        "linkwire.accept": "*",
        "linkwire.from": "proxy",
    },
    {"linkwire.expose": "1,2,3-4/udp", "linkwire.strict": "true", "linkwire.role": "agent", "other": "x"},
]


def some_labels(chance: random.Random) -> Outcome:
    written = dict(chance.choice(LABELS))
    texts = [text.encode() for each in LABELS for text in each.values()]
    for _ in range(chance.choice((1, 1, 2, 4))):
        label = chance.choice(sorted(written))
        value = written.pop(label)
        if chance.random() < 0.2:
            label = mutated(chance, label.encode(), texts, WORDS).decode(errors="replace")
        written[label] = mutated(chance, value.encode(), texts, WORDS).decode(errors="replace")
    read, errors = link_labels.decode(written)
    if link_labels.decode(link_labels.encode(read)) != (read, ()):
        raise AcceptedError(f"not read back: {written!r}")
    _check_labels(written, read)
    return "refused" if errors else "labels"


def _check_labels(written: dict[str, str], read: link_labels.ServiceLabels) -> None:
    for link in read.links:
        if f"{link_labels.LINK}{link.provider}.ports" in written and not link.ports:
            raise AcceptedError(f"open to all: {written!r}")
    if not read.strict and written.get(link_labels.STRICT, "").strip().lower() != "false":
        raise AcceptedError(f"not strict: {written!r}")
    for label, parties in (("allow", read.consent.allow), ("accept", read.consent.accept)):
        if "*" in (parties or ()) and "*" not in written[f"linkwire.{label}"]:
            raise AcceptedError(f"open to everybody: {written!r}")


FILES = [SHOP.encode(), b"version: '3.8'\n" + SHOP.encode(), b"services: {a: {links: [b], x-wireguard: {}}, b: {}}\n"]


def a_compose_file(chance: random.Random) -> Outcome:
    text = mutated(chance, chance.choice(FILES), FILES, WORDS)
    report = Report(["a.yml"])
    document = load(Source("a.yml", text, rereadable=True), report)
    project = read_schema([document], {}, report) if document else None
    links = check(project, report) if project else None
    if links is None or report.errors:
        return "refused" if report.errors else "nothing to do"
    override = compile_override(links, "stack", report)
    if report.errors:
        return "refused"
    dump_override(override)
    for name, service in override.get("services", {}).items():
        written = {
            label: value.replace("$$", "$") for label, value in service.get("deploy", {}).get("labels", {}).items()
        }
        read, errors = link_labels.decode(written)
        wanted = links.project.services[name].options
        if errors or any(_lost(options.ports, provider, read) for provider, options in wanted.items()):
            raise AcceptedError(repr(text))
        _check_labels(written, read)
    return "compiled"


def _lost(ports: list[PortRange], provider: str, read: link_labels.ServiceLabels) -> bool:
    """Whether the file limits a link's ports and the labels do not."""
    found = [link for link in read.links if link.provider in (provider, f"stack_{provider}")]
    return bool(ports) and any(not link.ports for link in found)


# -- the run ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    share: float
    attempt: Callable[[random.Random], Outcome]


TARGETS = {
    "envelopes": Target(0.4, an_envelope),
    "records": Target(0.15, a_record),
    "signed sets": Target(0.08, a_signed_set),
    "answers to a recall": Target(0.04, an_answer),
    "kept states": Target(0.04, a_state_file),
    "recalls": Target(0.04, an_agents_answer),
    "boxes": Target(0.05, a_box),
    "proofs": Target(0.05, a_proof),
    "labels": Target(0.2, some_labels),
    "compose files": Target(0.05, a_compose_file),
}


@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", TARGETS)
def test_no_crash_and_no_acceptance(name: str, figure: Callable[[str], None]) -> None:
    target = TARGETS[name]
    tries = round(COUNT * target.share)
    outcomes: Counter[str] = Counter()
    failures = []
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a certificate's odd serial number, once for each
        for number in range(tries):
            try:
                outcomes[target.attempt(random.Random(f"{SEED}/{name}/{number}"))] += 1  # noqa: S311 - to be made again
            except Exception as error:  # noqa: BLE001 - that is what is counted
                outcomes["accepted" if isinstance(error, AcceptedError) else "crashed"] += 1
                failures.append(f"seed {SEED}, {name}, number {number}: {type(error).__name__}: {error}"[:2000])
    counted = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(outcomes.items()))
    bad = f"{outcomes['accepted']} accepted, {outcomes['crashed']} crashed"
    figure(f"fuzz, {name}: {tries:,} in {time.perf_counter() - began:.0f} s: {counted}; {bad}")
    assert failures[:5] == []
    assert outcomes["refused"] > tries / 20, "mutations that nothing refuses test nothing"
