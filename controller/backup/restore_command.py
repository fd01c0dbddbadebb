"""Command `linkwire-controller restore`: a backup on standard input, and one line of JSON about what became of it.

`docker linkwire restore` runs it in a container with what the controllers have. The first line of the input is JSON,
`force` and `dry_run`; the backup follows, opened, since its key stays with the user.
"""

from __future__ import annotations

import json
import sys
from typing import IO, Any

from controller.backup.restore import Outcome, restore
from controller.settings import Settings
from mesh.errors import LinkwireError
from mesh.identity.key_files import read_signing_key, read_verify_keys
from mesh.integrity.record_signing import RecordSigner
from mesh.model.backup.contents import decoded
from mesh.store.client import Store


def run(options: Settings, source: IO[bytes]) -> int:
    """Restore what comes by `source`, print the outcome, and return the exit code."""
    try:
        found = _restored(options, source)
    except (LinkwireError, ValueError) as error:
        found = Outcome((str(error),))
    sys.stdout.write(f"{json.dumps(document(found))}\n")
    sys.stdout.flush()
    return 1 if found.problems else 0


def _restored(options: Settings, source: IO[bytes]) -> Outcome:
    asked = json.loads(source.readline())
    backup = decoded(source.read())
    keyring = read_verify_keys(options.verify_keys)
    signer = RecordSigner.controller(keyring, read_signing_key(options.signing_seed))
    store = Store(options.etcd, signer, tls=options.tls)
    try:
        return restore(
            store, backup, keyring.cluster, force=asked.get("force") is True, dry_run=asked.get("dry_run") is True
        )
    finally:
        store.close()


def document(found: Outcome) -> dict[str, Any]:
    """Return an outcome as JSON has it."""
    made = found.comparison
    counts = dict(made.restored) if made is not None else {}
    if made is not None and found.pages:
        counts["pages of the audit log"] = found.pages
    return {
        "problems": list(found.problems),
        "written": found.written,
        "generation": found.generation,
        "whole": made is not None and made.whole,
        "restored": counts,
        "lost": list(made.lost) if made is not None else [],
        "kept": list(made.kept) if made is not None else [],
    }
