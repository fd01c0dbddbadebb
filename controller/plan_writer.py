"""Writer of plans: packs steps into transactions, and commits them through the ledger."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from controller.audit.log import AuditLog
from controller.steps import Secrets, Step
from controller.transactions import Packed, packed
from controller.trust.signed_writer import SignedWriter
from mesh.errors import LinkwireError
from mesh.model.snapshot import Holds, Op
from mesh.store.client import Store
from mesh.store.packing import Part

log = structlog.get_logger(__name__)


class PlanWriter:
    """Commits the steps of plans.

    Attributes:
        ledger: signs each commit.
        store: to write to.
        committed: steps that were written.
        outdated: steps that were out of date when they were to be written.
    """

    def __init__(self, store: Store, secret: Secrets, audit: AuditLog | None = None) -> None:
        """Prepare.

        Args:
            store: to write to.
            secret: gives the secrets of link keys.
            audit: records what the commits mean; None for no record.
        """
        self.ledger = SignedWriter(store)
        self.store = store
        self.committed = 0
        self.outdated = 0
        self._secret = secret
        self._audit = audit

    def pack(self, steps: Sequence[Step]) -> Packed:
        """Make a plan's transactions."""
        return packed(steps, self._secret)

    def write(self, plan: Packed, token: Holds, *, whole: bool) -> int | None:
        """Commit a plan; where a transaction fails, commit its steps one by one.

        While the store holds what was signed, each transaction signs what it then holds. Else only the last one
        signs, so that agents see nothing half mended; and none does where more is to be done (`whole` is False).

        Returns:
            The last revision written, 0 for none; None when no part of the plan could be written: it is out of date,
            or the lead is lost.
        """
        last = 0
        for number, batch in enumerate(plan.batches, 1):
            sign = self.ledger.verified or (whole and number == len(plan.batches))
            revision = self._commit(batch, token, sign=sign)
            if revision is None and len(batch) > 1:  # one step is out of date: the others may still apply
                revisions = [self._commit([part], token, sign=sign) for part in batch]
                revision = max((written for written in revisions if written is not None), default=None)
            if revision is None:
                return last or None
            last = max(last, revision)
        return last

    def restore(self, steps: Sequence[Step], token: Holds, *, sign: bool) -> int | None:
        """Commit steps in order up to the first transaction that fails; with `sign` the last one signs the store.

        Returns:
            As `write`.
        """
        revision: int | None = 0
        batches = self.pack(steps).batches
        for number, batch in enumerate(batches, 1):
            ops = (token, *(op for _, part in batch for op in part))
            revision = self._told(ops, sign=sign and number == len(batches))
            if revision is None:
                break
        return revision

    def tell(self, token: Holds) -> int | None:
        """Record what no commit has told: problems, and a new lead. Returns as `write`."""
        if self._audit is None or not self._audit.waits:
            return 0
        old = self._audit.resigned()
        revision = self._told((token, *old), sign=False)
        self._audit.signed_again(old, revision)
        return revision

    @property
    def has_more_to_tell(self) -> bool:
        """Whether `tell` has something to write."""
        return self._audit is not None and self._audit.waits

    def _commit(self, batch: Sequence[Part[Step]], token: Holds, *, sign: bool) -> int | None:
        revision = self._told((token, *(op for _, part in batch for op in part)), sign=sign)
        for step, _ in batch:
            if revision is not None:
                self.committed += 1
                log.info("plan step committed", reason=step.reason, revision=revision)
            elif len(batch) == 1:
                self.outdated += 1
                log.info("plan step out of date, replanning", reason=step.reason)
        return revision

    def _told(self, ops: Sequence[Op], *, sign: bool) -> int | None:
        """Commit operations together with the audit log's pages about them. Returns and raises as `Store.commit`."""
        if self._audit is None:
            return self.ledger.commit(ops, sign=sign)
        pages = self._audit.pages(ops)
        try:
            written = {put.key for put in pages.puts}  # in their place none is signed again
            others = [op for op in ops if op.key not in written]
            revision = self.ledger.commit((*others, *pages.puts), sign=sign)
        except LinkwireError:
            self._audit.lose()
            raise
        self._audit.commit(pages, revision)
        return revision
