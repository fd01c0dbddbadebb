"""Election: a lead that is found lost is not taken for one that was won meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest

from controller.election import Election
from mesh.model import keyspace


class Etcd:
    """Grants every wish; `loading` is called while the leader's record is read, which then has another revision."""

    def __init__(self) -> None:
        self.revision = 5
        self.loading: Callable[[], None] = lambda: None

    def grant(self, _: int) -> int:
        return 1

    def renew_lease(self, _: int) -> int:
        return 1

    def revoke(self, _: int) -> None:
        return None

    def commit(self, _: Sequence[object]) -> int:
        return self.revision

    def load(self, _: Sequence[str]) -> SimpleNamespace:
        self.loading()
        return SimpleNamespace(revision_of=lambda key: self.revision if key == keyspace.LEADER else 0)


@pytest.mark.parametrize("won_meanwhile", [True, False])
def test_a_lead_won_meanwhile_is_kept(monkeypatch: pytest.MonkeyPatch, *, won_meanwhile: bool) -> None:
    """The thread wins the lead anew while the loop waits for etcd's answer on the one before."""
    monkeypatch.setattr(Election, "_run", lambda self: self._campaign())
    etcd = Etcd()
    elected = Election(etcd, "c1", lambda: None)  # type: ignore[arg-type]
    elected._thread.join()
    assert elected.token is not None

    def lose_and_win() -> None:
        etcd.revision = 9
        if won_meanwhile:
            elected._set(None)
            elected._campaign()

    etcd.loading = lose_and_win
    elected.verify()
    token = elected.token
    assert (token is not None and token.revision == 9) == won_meanwhile
    elected.stop()
