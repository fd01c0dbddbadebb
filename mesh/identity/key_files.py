"""Files of the seeds, the verify keys, and a controller's own sealing key. Errors quote nothing of a secret file.

The verify keys, a Docker config, are text: a line `cluster ID` with Swarm's cluster id, then one key in base64 a
line, two while the signing key is replaced; empty lines and comments from # on are ignored.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from mesh.crypto.hpke import NodeKey
from mesh.crypto.preshared_keys import LinkSeed
from mesh.crypto.secret import Secret
from mesh.crypto.signed_envelope import Keyring, SigningKey, VerifyKey
from mesh.errors import Terminal

SEED_FILE = "/run/secrets/linkwire_signing_seed"
LINK_SEED_FILE = "/run/secrets/linkwire_link_seed"
VERIFY_KEYS_FILE = "/run/linkwire/verify-keys"
S = TypeVar("S", bound=Secret)
CONTROLLER_KEY_FILE = "/var/lib/linkwire/controller.key"
_MAX_BYTES = 65536
_OTHERS = 0o077
_INSTALL = "`docker linkwire install` makes it"


def read_signing_key(path: Path) -> SigningKey:
    """Read the signing seed: 32 bytes as 64 hex digits.

    Raises:
        Terminal: it is missing or malformed; the error quotes no content.
    """
    return _read_seed(path, "signing seed", SigningKey)


def read_link_seed(path: Path) -> LinkSeed:
    """Read the seed of all link keys: 32 bytes as 64 hex digits.

    Raises:
        Terminal: it is missing or malformed; the error quotes no content.
    """
    return _read_seed(path, "seed of the link keys", LinkSeed)


def own_sealing_key(path: Path) -> NodeKey:
    """Read a sealing key of this node's own; on the first run make it, whole or not at all, for its owner alone.

    Raises:
        Terminal: the folder cannot be written, the file cannot be read, others may read it, or it holds no key.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _make_sealing_key(path)
        with path.open("rb") as file:
            mode, raw = stat.S_IMODE(os.fstat(file.fileno()).st_mode), file.read(_MAX_BYTES)
    except OSError as error:
        raise Terminal(f"the controller's sealing key {path}: {error.strerror}") from None
    remedy = "remove it: the controller makes a new one, and every link key gets a new secret"
    if mode & _OTHERS:
        raise Terminal(f"the controller's sealing key {path} may be read by others (mode {mode:04o}): {remedy}")
    try:
        return NodeKey.from_file(raw)
    except Terminal:
        raise Terminal(f"{path} is not a sealing key of this version; {remedy}") from None


def _make_sealing_key(path: Path) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(NodeKey.generate().to_file())
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # of two that start at once the second takes the first one's
            os.link(name, path)
    finally:
        Path(name).unlink()


def read_verify_keys(path: Path) -> Keyring:
    """Read the verify keys and their cluster.

    Raises:
        Terminal: the file is missing, has no cluster or no key, or has another line.
    """
    return parse_verify_keys(_read(path, "verify keys"), str(path))


def parse_verify_keys(text: str, where: str) -> Keyring:
    """Parse a verify keys file; errors name it `where`. Raises Terminal."""
    cluster = ""
    keys: list[VerifyKey] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if words[0] == "cluster" and len(words) == 2 and not cluster:  # noqa: PLR2004 - the word and the id
            cluster = words[1]
            continue
        try:
            (word,) = words
            key = VerifyKey.parse(word)
        except (ValueError, Terminal):
            raise Terminal(
                f"the verify keys {where}, line {number}: neither `cluster ID`, once, nor one public key in base64"
            ) from None
        if key not in keys:
            keys.append(key)
    if not cluster or not keys:
        missing = "no line `cluster ID`" if not cluster else "no key"
        raise Terminal(f"the verify keys {where}: {missing}: {_INSTALL}")
    return Keyring(cluster, tuple(keys))


def verify_keys_text(cluster: str, keys: Iterable[VerifyKey]) -> str:
    """Return the text that `parse_verify_keys` reads."""
    return "\n".join([f"cluster {cluster}", *map(str, keys), ""])


def _read_seed(path: Path, what: str, kind: type[S]) -> S:
    text = _read(path, what)
    try:
        return kind(bytes.fromhex(text.strip()))
    except (ValueError, Terminal):
        raise Terminal(f"the {what} {path} is not 64 hex digits: {_INSTALL}") from None


def _read(path: Path, what: str) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES)
        return raw.decode("ascii")
    except OSError as error:
        raise Terminal(f"the {what} {path}: {error.strerror}: {_INSTALL}") from None
    except UnicodeDecodeError:
        raise Terminal(f"the {what} {path}: not text: {_INSTALL}") from None
