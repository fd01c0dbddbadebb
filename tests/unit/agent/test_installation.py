"""A node's state belongs to one installation: another one's is set aside, and nothing else ever is."""

from pathlib import Path

import pytest

from agent.state import installation
from agent.state.verified_state import VerifiedState, generation, remembered
from mesh.crypto.signed_envelope import Keyring, SigningKey
from mesh.errors import Terminal
from tests.support.signing import CLUSTER, KEYRING, SIGNING_KEY
from tests.unit.mesh.test_contents import RECORDS, shown, values

HERE = SIGNING_KEY.verify_key.id.hex()
LATER = SigningKey.generate()
THEIRS = Keyring(CLUSTER, (LATER.verify_key,))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a node that has seen generation 735."""
    (tmp_path / "node.key").write_text("its own")
    (tmp_path / "state").write_text("what it knew")
    trust = VerifiedState(tmp_path)
    trust.update(shown(values(*RECORDS, generation=735)))
    assert generation(trust.manifest) == 735
    return tmp_path


def test_state_of_the_same_installation_stays(folder: Path) -> None:
    """Also that from before there were ids, and when the signing key was renewed while the node was down."""
    assert not installation.bind(folder, HERE, KEYRING)
    assert (folder / "installation").read_text() == f"{HERE}\n"
    assert not installation.bind(folder, HERE, THEIRS)
    assert generation(remembered(folder)) == 735
    assert not (folder / "earlier").exists()


@pytest.mark.parametrize("bound", [True, False])
def test_state_of_another_installation_is_set_aside(folder: Path, bound: bool) -> None:
    if bound:
        installation.bind(folder, HERE, KEYRING)
    other = LATER.verify_key.id.hex()
    assert installation.bind(folder, other, THEIRS)
    assert remembered(folder) == b""
    assert not (folder / "state").exists()
    assert (folder / "node.key").read_text() == "its own"
    assert generation(remembered(folder / "earlier")) == 735
    trust = VerifiedState(folder)
    assert trust.update(shown(values(*RECORDS, generation=1))).records, "it acts on generation 1"
    assert not installation.bind(folder, other, THEIRS), "once"
    assert generation(remembered(folder)) == 1


def test_without_an_installation_nothing_is_set_aside(folder: Path) -> None:
    assert not installation.bind(folder, "", THEIRS)
    assert generation(remembered(folder)) == 735
    assert not (folder / "installation").exists()


def test_what_cannot_be_read_stops_the_agent(folder: Path) -> None:
    (folder / "installation").mkdir()
    with pytest.raises(Terminal, match="the installation that this node's state belongs to"):
        installation.bind(folder, HERE, KEYRING)
