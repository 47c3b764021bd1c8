"""A state machine of a ledger's callers: each step on a real ledger and on its model, which must agree."""

import asyncio
import sys
import time
from collections.abc import Coroutine, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from sqlalchemy import Connection, insert, select, update

from operator_core.actions import (
    ActionError,
    ActionProposal,
    ActionStatus,
    Claim,
    ConstraintViolation,
    EndCode,
    ExclusiveBusy,
    HaltRequested,
    LeaseLost,
    LimitReached,
    NotFound,
    StoredProposal,
)
from operator_core.db import ActionDB
from operator_core.db.sql.functions import written_now
from operator_core.db.sql.tables import PROPOSALS, RECORDS
from tests.clocks import PATIENCE
from tests.conftest import proposal
from tests.contract.ledger_choices import (
    FAR,
    LAPSES,
    LONG,
    PAST,
    RECORD,
    RECORDS_AT_ONCE,
    RESULT,
    SHORT,
    TO_MAKE,
    WORKERS,
    among,
    drawn,
    executed,
    likely,
    open_ids,
    silent,
    some,
    sometimes,
    to_be_retried,
)
from tests.contract.ledger_model import Model, Proposal, Record, Refusal, Refusals
from tests.contract.ledger_replay import Replay

T = TypeVar("T")
S = ActionStatus


def by_proposal(start: tuple[int, bool]) -> int:
    return start[0]


class LedgerMachine(RuleBasedStateMachine):
    """Callers and workers of one ledger, one call after another."""

    def __init__(self, place: str | Path) -> None:
        super().__init__()
        self.place = place
        self.model = self.new_model()
        self.replay = Replay()
        self.steps = 0
        self.claims: dict[int, Claim] = {}
        self.runner = asyncio.Runner()
        self.db = self.run(ActionDB(place).open())

    def new_model(self) -> Model:
        return Model(sweeps_first="://" not in str(self.place))

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        # Runner.run() would set a handler for signals each time, which takes as long as the call.
        return self.runner.get_loop().run_until_complete(call)

    def raw(self, statement: Any) -> Any:
        """Another tool's SQL, beside the facade; the triggers are awake."""

        def unit(conn: Connection) -> Any:
            result = conn.execute(statement)
            return result.all() if result.returns_rows else []

        return self.run(self.db._units.write(unit))

    def hear(self) -> dict[int, datetime]:
        """Follows the history; when each proposal failed last."""
        self.replay.apply(self.run(self.db.history(after=self.replay.last)))
        return self.replay.failed_at

    def check(self, expected: Refusal | Refusals, call: Coroutine[Any, Any, object]) -> None:
        if not expected:
            self.run(call)
            return
        several = expected if isinstance(expected, tuple) else (expected,)
        with pytest.raises(several) as caught:
            self.run(call)
        assert type(caught.value) in several
        self.compare_errors(type(caught.value), caught.value)

    def compare_errors(self, expected: Refusal, error: Exception | None) -> None:
        assert (None if error is None else type(error)) is expected, error
        match error:
            case LimitReached() as error:
                facts = error.name, error.used, error.retry_at is None
                assert facts == self.model.facts
            case ExclusiveBusy() as error:
                assert (error.key, error.proposal_id) == self.model.facts
            case _:
                pass

    def wait_for(self, lapsing: Sequence[int]) -> None:
        """Until leases of a millisecond have run out by the database's clock."""
        late = time.monotonic() + PATIENCE
        silent = select(RECORDS.c.id).where(
            RECORDS.c.id.in_(lapsing), RECORDS.c.lease_expires_at <= written_now()
        )
        while len(self.raw(silent)) < len(lapsing):
            assert time.monotonic() < late, "a short lease does not run out"

    # ------ who proposes and who decides

    @initialize(made=st.lists(TO_MAKE, min_size=4, max_size=8), damaged=st.booleans())
    def begin(self, made: list[ActionProposal], damaged: bool) -> None:
        self.propose(made)
        if damaged:
            self.damage()

    @rule(made=st.lists(TO_MAKE, min_size=1, max_size=3))
    def propose(self, made: list[ActionProposal]) -> None:
        expected = self.model.check_new(made)
        if expected:
            self.check(expected, self.db.create_proposals(made))
            return
        rows = self.run(self.db.create_proposals(made))
        for row, proposed in zip(rows, made, strict=True):
            self._add(row, proposed.status, "agent", readable=True)

    @sometimes
    @rule()
    def damage(self) -> None:
        values = {"parameters": "[]", "reason": "by hand", "status": "validated", "priority": 9}
        statement = insert(PROPOSALS).values(action_name="move", proposed_at=PAST[0], **values)
        row = proposal("move")
        if self.model.is_halted(row):
            with pytest.raises(ConstraintViolation, match="action_proposals_halted"):
                self.raw(statement)
            return
        ((id,),) = self.raw(statement.returning(PROPOSALS.c.id))
        self._add(row.model_copy(update={"id": id}), S.VALIDATED, "raw SQL", readable=False)

    def _add(self, row: ActionProposal, status: ActionStatus, by: str, *, readable: bool) -> None:
        waits, expired = row.scheduled_at == FAR, row.expires_at in PAST
        self.model.add(Proposal(row, status, by, waits, expired, readable))

    @some(among(S.PROPOSED))
    @rule(id=drawn(among(S.PROPOSED)))
    def validate(self, id: int) -> None:
        self.move(id, S.VALIDATED, None)

    @rule(
        id=likely(among(S.VALIDATED, S.EXECUTING)),
        status=st.sampled_from(ActionStatus),
        off=st.sampled_from([None, None, None, 0, -1, 1]),
    )
    def move(self, id: int, status: ActionStatus, off: int | None) -> None:
        found = self.model.proposals.get(id)
        version = None if off is None else max(1, (found.version if found else 1) + off)
        expected = self.model.move(id, status, "carol", version)
        self.check(
            expected,
            self.db.update_proposal_status(id, status, actor="carol", expected_version=version),
        )

    @rule(id=likely(among(S.FAILED)))
    def retry(self, id: int) -> None:
        expected = self.model.move(id, S.VALIDATED, "carol", None, retry=True)
        self.check(expected, self.db.retry(id, actor="carol"))

    @some(executed)
    @rule(id=drawn(executed), to=st.sampled_from([S.FAILED, S.CANCELLED]), again=st.booleans())
    def take_away(self, id: int, to: ActionStatus, again: bool) -> None:
        """Somebody decides over the head of a worker, who goes on; another may begin."""
        held = max(each.id for each in self.model.open_records() if each.proposal_id == id)
        self.move(id, to, None)
        if to is S.FAILED and again:
            self.retry(id)
            self.claim_whatever_is_due("bob")
        self.heartbeat(held, lapses=False)

    @some(among(S.PROPOSED, S.VALIDATED))
    @rule(id=drawn(among(S.PROPOSED, S.VALIDATED)), itself=st.booleans())
    def cancel(self, id: int, itself: bool) -> None:
        by = "\u200bAGENT" if itself else "carol"
        found = self.model.proposals.get(id)
        is_own = itself and found is not None and found.row.proposed_by == "agent"
        code = EndCode.WITHDRAWN if is_own else None
        expected = self.model.move(id, S.CANCELLED, by, None, end_code=code)
        self.check(expected, self.db.cancel_proposal(id, by=by, reason="no"))

    @sometimes
    @rule()
    def cancel_all_pending(self) -> None:
        expected = self.model.cancel_pending("carol")
        assert self.run(self.db.cancel_all_pending(actor="carol")) == expected

    # ------ workers

    @rule(
        worker=st.sampled_from(WORKERS),
        limit=st.sampled_from([1, 1, 2, 3, 20]),
        names=st.sampled_from([None, None, ("split",), ("move",), ("move", "split")]),
        lapses=LAPSES,
    )
    def claim(self, worker: str, limit: int, names: Sequence[str] | None, lapses: bool) -> None:
        self._settle_silent()
        # On a server one of a millisecond might run out before what is overdue is seen to.
        lapses = lapses and (self.model.sweeps_first or not self.model.overdue())
        lease = SHORT if lapses else LONG
        taken = self.run(self.db.claim(worker, limit=limit, lease=lease, action_names=names))
        expected = self.model.claim(worker, limit, names, self.hear())
        assert [claim.proposal.id for claim in taken] == expected
        for claim in taken:
            self._start(claim, worker, lapses)
        if lapses:
            self.wait_for([claim.record.id or 0 for claim in taken])

    def _settle_silent(self) -> None:
        if len(silent(self.model)) > 1:
            # Which of them failed first is chance; `_settle` makes it certain.
            self.recover_expired()
            self.proposals_are_as_the_model_says()

    @rule(id=likely(among(S.VALIDATED), among(S.VALIDATED), to_be_retried))
    def claim_this(self, id: int) -> None:
        self._settle_silent()

        async def call() -> tuple[Claim | None, ActionError | None]:
            try:
                return await self.db.claim_proposal(id, "alice"), None
            except ActionError as error:
                return None, error

        claim, error = self.run(call())
        expected = self.model.claim_proposal(id, "alice", self.hear())
        self.compare_errors(expected, error)
        if claim is not None:
            assert claim.proposal.id == id
            self._start(claim, "alice", lapsed=False)

    @rule(worker=st.sampled_from(WORKERS))
    def claim_whatever_is_due(self, worker: str) -> None:
        self.claim(worker, 20, None, lapses=False)

    def _start(self, claim: Claim, worker: str, lapsed: bool) -> None:
        record, known = claim.record, self.model.proposals[claim.proposal.id or 0]
        assert claim.proposal.status is S.EXECUTING
        assert (claim.proposal.version, record.worker) == (known.version, worker)
        assert record.proposal_id == known.id
        assert record.id not in (None, *self.model.records)
        self.model.records[record.id] = Record(record.id, known.id, worker, lapsed)
        self.claims[record.id] = claim

    @some(lambda model: model.records)
    @rule(id=RECORD, lapses=LAPSES)
    def heartbeat(self, id: int, lapses: bool) -> None:
        expected = self.model.heartbeat(id, lapsed=lapses)
        self.check(expected, self.db.heartbeat(id, SHORT if lapses else LONG))
        if lapses and expected in (None, HaltRequested):
            self.wait_for([id])

    @some(open_ids)
    @rule(id=drawn(open_ids))
    def fall_silent(self, id: int) -> None:
        lapse = {"lease_expires_at": PAST[0]}
        self.raw(update(RECORDS).where(RECORDS.c.id == id).values(lapse))
        self.model.records[id].lapsed = True

    @some(lambda model: model.records)
    @rule(id=RECORD, result=RESULT)
    def complete(self, id: int, result: dict[str, Any] | None) -> None:
        self.check(self.model.end(id, None, result), self.db.complete(id, result))

    @some(lambda model: model.records)
    @rule(id=RECORD, result=RESULT, unknown=st.sampled_from([False, False, True]))
    def fail(self, id: int, result: dict[str, Any] | None, unknown: bool) -> None:
        code = EndCode.OUTCOME_UNKNOWN if unknown else EndCode.FAILED
        expected = self.model.end(id, "boom", result, code)
        self.check(expected, self.db.fail(id, "boom", result, outcome_unknown=unknown))

    @some(lambda model: model.records)
    @rule(ids=RECORDS_AT_ONCE, result=RESULT)
    def complete_many(self, ids: list[int], result: dict[str, Any] | None) -> None:
        lost = self.run(self.db.complete_many(dict.fromkeys(ids, result) if result else ids))
        assert lost == [id for id in ids if self.model.end(id, None, result) is not None]

    @some(lambda model: model.records)
    @rule(ids=RECORDS_AT_ONCE)
    def fail_many(self, ids: list[int]) -> None:
        lost = self.run(self.db.fail_many(dict.fromkeys(ids, "boom")))
        assert lost == [id for id in ids if self.model.end(id, "boom", None) is not None]

    @some(lambda model: model.records)
    @rule(id=RECORD, error=st.sampled_from([None, "boom"]))
    def end_twice_at_once(self, id: int, error: str | None) -> None:
        def end() -> Coroutine[Any, Any, None]:
            return self.db.complete(id) if error is None else self.db.fail(id, error)

        async def both() -> list[Any]:
            # Alike, so that it is the same afterwards whoever wins: steps are run again.
            return await asyncio.gather(end(), end(), return_exceptions=True)

        outcomes = self.run(both())
        first = self.model.end(id, error, None)
        second = NotFound if first is NotFound else LeaseLost
        expected = [first or type(None), second]
        assert sorted(map(type, outcomes), key=repr) == sorted(expected, key=repr)

    # ------ time, and the ledger itself

    @some(silent)
    @rule()
    def recover_expired(self) -> None:
        ended = self.run(self.db.recover_expired())
        assert [each.id for each in ended] == self.model.recover(self.hear())
        assert all(each.outcome_unknown and each.success is None for each in ended)

    @some(to_be_retried)
    @rule(id=drawn(to_be_retried), due=st.sampled_from([*PAST, FAR]))
    def put_off(self, id: int, due: datetime) -> None:
        self.raw(update(PROPOSALS).where(PROPOSALS.c.id == id).values(next_retry_at=due))
        known = self.model.proposals[id]
        known.retry_due, known.settled = due != FAR, True
        # A server lets it be no earlier than it was scheduled for.
        known.retry_at = due if self.model.sweeps_first else max(due, known.row.scheduled_at or due)
        known.version += 1

    @sometimes
    @precondition(lambda machine: machine.place != ":memory:")
    @rule()
    def reopen(self) -> None:
        self.run(self.db.close())
        self.db = self.run(ActionDB(self.place).open())

    # ------ what holds after every step

    @invariant()
    def proposals_are_as_the_model_says(self) -> None:
        self.steps += 1
        self.hear()
        found = self.run(self.db.list_proposals())
        known = self.model.proposals.values()
        assert [row.id for row in found] == [p.id for p in reversed(known) if p.readable]
        assert {row.id for row in found.corrupt} == {p.id for p in known if not p.readable}
        for row in found:
            self._compare(self.model.proposals[row.id or 0], row)

    def _compare(self, known: Proposal, row: StoredProposal) -> None:
        assert row.end_code == known.end_code
        assert row.content_digest == row.digest == self.replay.digests[known.id]
        state = (row.status, row.version, row.retry_count, row.last_error)
        assert state == (known.status, known.version, known.retry_count, known.last_error)
        assert row.retry_count <= row.max_retries
        if row.status not in (S.FAILED, S.VALIDATED):
            return
        assert (row.next_retry_at is not None) == known.retried
        if known.retried and not known.settled:
            self._settle(known, row)

    def _settle(self, known: Proposal, row: ActionProposal) -> None:
        """Checks a retry's delay, and puts in its place a time that is the same in each run."""
        assert row.next_retry_at is not None
        waits = row.next_retry_at - self.replay.failed_at[known.id]
        longest = timedelta(seconds=row.retry_delay)
        assert -timedelta(seconds=1) <= waits <= longest + timedelta(seconds=1)
        due = PAST[0] + timedelta(seconds=self.steps) if known.retry_due else FAR
        self.put_off(known.id, due)

    @invariant()
    def executions_are_as_the_model_says(self) -> None:
        row = RECORDS.c
        lapsed = (row.lease_expires_at <= written_now()).label("lapsed")
        columns = (row.id, row.proposal_id, row.worker, row.completed_by, row.success)
        more = (row.outcome_unknown, row.error_message, row.completed_at, lapsed)
        for found in self.raw(select(*columns, *more).order_by(row.id)):
            known = self.model.records[found.id]
            assert found[1:4] == (known.proposal_id, known.worker, known.ended_by)
            assert found[4:7] == (known.success, known.unknown, known.error)
            assert (found.completed_at is None) == (known.ended_by is None)
            assert known.ended_by is not None or bool(found.lapsed) == known.lapsed

    @invariant()
    def the_history_tells_the_same(self) -> None:
        self._compare_with(self.replay)

    def _compare_with(self, replay: Replay) -> None:
        known = self.model.proposals
        assert replay.statuses == {id: each.status for id, each in known.items()}
        assert replay.moved_by == {id: each.moved_by for id, each in known.items()}
        assert replay.ends == {id: each.end_code for id, each in known.items()}
        assert replay.records == {
            id: (each.worker, each.ended_by, each.success, each.error)
            for id, each in self.model.records.items()
        }
        # Those of one claim are in another order on each backend.
        starts = [(each.row.id or 0, each.given_back) for each in self.model.starts]
        assert sorted(replay.starts, key=by_proposal) == sorted(starts, key=by_proposal)
        resolved = {id: each.resolved for id, each in self.model.records.items() if each.resolved}
        assert replay.resolved == resolved
        removed = {id: each.removed_by for id, each in self.model.limits.items()}
        assert {id: by for id, (_, by) in replay.limits.items()} == removed

    def teardown(self) -> None:
        try:
            if sys.exception() is None:
                self.look_back()
        finally:
            self.run(self.db.close())
            self.runner.close()

    def look_back(self) -> Replay:
        """The whole history once more from its beginning, and each execution as callers see it."""
        replay = Replay()
        replay.apply(self.run(self.db.history()))
        self._compare_with(replay)
        for known in self.model.records.values():
            row = self.run(self.db.get_record(known.id))
            assert row is not None
            assert (row.success, row.outcome_unknown) == (known.success, known.unknown)
            assert (row.result_data, row.worker) == (known.result, known.worker)
        return replay
