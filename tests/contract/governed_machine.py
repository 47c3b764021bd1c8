"""The callers of the state machine with those who limit, amend, and find out what became of something."""

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from sqlalchemy import select, update

from operator_core.actions import ActionStatus, ConstraintViolation, EndCode
from operator_core.db.sql.tables import PROPOSALS, STARTS
from tests.clocks import asleep
from tests.contract.ledger_choices import (
    AMOUNTS,
    LIMIT,
    among,
    drawn,
    likely,
    open_ids,
    some,
    unknown,
)
from tests.contract.ledger_limits import AMOUNT, Bound
from tests.contract.ledger_machine import LedgerMachine
from tests.contract.ledger_model import Model
from tests.contract.ledger_replay import Replay

S = ActionStatus

UNBEGUN = "the claim was cancelled: it was not begun"
NAMES = ("first", "second")


def held_back(model: Model) -> list[int]:
    """What is due and only waits for a limit or an exclusive key."""
    room = model.room()
    return [
        each.id
        for each in model.proposals.values()
        if each.status is S.VALIDATED and each.readable and not each.expired and not each.waits
        if not model.is_held_by_people(each)
        if room.held(each.row) is not None
    ]


now_and_then = precondition(
    lambda machine: machine.steps % 3 == 2 and bool(machine.model.open_limits())
)
"""For what lets start again what a limit has held back."""


class GovernedMachine(LedgerMachine):
    """Callers, workers, and those who govern them."""

    # ------ limits and exclusive keys

    @initialize(values=st.lists(LIMIT, max_size=1))
    def begin_limited(self, values: list[dict[str, Any]]) -> None:
        for name, each in zip(NAMES, values, strict=False):
            self.set_limit(name, each)

    @some(lambda model: len(model.open_limits()) < len(NAMES))
    @rule(name=st.sampled_from(NAMES), values=LIMIT)
    def set_limit(self, name: str, values: dict[str, Any]) -> None:
        path = None if values["max_sum"] is None else [AMOUNT]
        made = self.run(self.db.set_limit(name, sum_of=path, by="dora", reason="careful", **values))
        agent = values["agent_id"] and values["agent_id"].lower()
        self.model.set_limit(Bound(made.id, name, **{**values, "agent_id": agent}), "dora")

    @some(held_back)
    @rule(id=drawn(held_back), how=st.sampled_from(["claim", "move", "raw SQL"]))
    def start_what_is_held_back(self, id: int, how: str) -> None:
        match how:
            case "claim":
                self.claim_this(id)
            case "move":
                self.move(id, S.EXECUTING, None)
            case _:
                with pytest.raises(ConstraintViolation, match=r"limit_reached|exclusive_busy"):
                    self.raw(
                        update(PROPOSALS)
                        .where(PROPOSALS.c.id == id)
                        .values(status=S.EXECUTING.value)
                    )

    @now_and_then
    @rule(name=st.sampled_from(NAMES))
    def remove_limit(self, name: str) -> None:
        expected = self.model.remove_limit(name, "erin")
        self.check(expected, self.db.remove_limit(name, by="erin", reason="over"))

    @now_and_then
    @rule()
    def a_day_passes(self) -> None:
        """For the limits only: everything that has started did so a day earlier."""
        server = self.run(self.db._units.read(lambda conn: conn.dialect.name == "postgresql"))
        earlier = (
            "{0} - interval '1 day'"
            if server
            else "strftime('%Y-%m-%d %H:%M:%f000', {0}, '-1 day')"
        )
        statements = [
            f"UPDATE {table} SET {column} = {earlier.format(column)} WHERE {which}"
            for table, column, which in (
                ("action_starts", "started_at", "true"),
                ("action_events", "occurred_at", "to_status = 'executing'"),
            )
        ]
        self.run(asleep(self.db, *statements))
        for start in self.model.starts:
            start.days += 1

    @some(open_ids)
    @rule(id=drawn(open_ids))
    def give_back(self, id: int) -> None:
        """The claim of an execution was cancelled before its worker got it."""
        self.run(self.db._give_back([self.claims[id]]))
        assert self.model.end(id, UNBEGUN, None, EndCode.NOT_BEGUN) is None

    @some(lambda model: model.open_limits())
    @rule()
    def claim_in_vain(self) -> None:
        """A claim of which nothing is begun, which leaves the limits as they were."""
        known = set(self.model.records)
        self.claim_whatever_is_due("alice")
        for id in sorted(set(self.model.records) - known):
            if self.model.records[id].ended_by is None:
                self.give_back(id)

    # ------ other parameters, and what became of unknown outcomes

    @rule(id=likely(among(S.PROPOSED, S.VALIDATED)), parameters=AMOUNTS)
    def amend(self, id: int, parameters: dict[str, Any]) -> None:
        old = self.model.proposals.get(id)
        expected = self.model.amend(id, "dora")
        call = self.db.amend_proposal(id, parameters=parameters, by="dora", reason="better")
        if expected is not None or old is None:
            self.check(expected, call)
            return
        made = self.run(call)
        same = ("action_name", "priority", "exclusive_key", "agent_id", "expires_at", "max_retries")
        assert [getattr(made, each) for each in same] == [getattr(old.row, each) for each in same]
        assert (made.parameters, made.supersedes_id) == (parameters, id)
        self._add(made, S.PROPOSED, "dora", readable=True)

    @some(lambda model: model.records)
    @rule(id=likely(unknown, unknown, among="records"), succeeded=st.booleans())
    def resolve(self, id: int, succeeded: bool) -> None:
        expected = self.model.resolve(id, "erin", succeeded=succeeded)
        call = self.db.resolve_outcome(id, by="erin", succeeded=succeeded, evidence="the log")
        self.check(expected, call)

    # ------ what holds after every step

    @invariant()
    def limits_are_used_as_the_model_says(self) -> None:
        if not self.model.limits:
            return
        found = self.run(self.db.limits())
        told = [(each.limit.id, each.starts, each.spent, each.is_reached) for each in found]
        uses = self.model.uses()
        assert told == [(use.bound.id, use.starts, use.spent, use.is_reached) for use in uses]

    @invariant()
    def nothing_shares_an_exclusive_key(self) -> None:
        executing = self.run(self.db.list_proposals(S.EXECUTING))
        keys = [row.exclusive_key for row in executing if row.exclusive_key is not None]
        assert len(keys) == len(set(keys))

    def look_back(self) -> Replay:
        replay = super().look_back()
        assert [each.id for each in self.run(self.db.unresolved())] == unknown(self.model)
        self._compare_limits(replay)
        self._compare_starts()
        return replay

    def _compare_limits(self, replay: Replay) -> None:
        """Each row of a limit is as its event tells."""
        found = [each.limit for each in self.run(self.db.limits(active=False))]
        rows = {
            row.id: ({"limit": row.id, **_told(row.model_dump(mode="json"))}, row.removed_by)
            for row in found
        }
        assert rows == replay.limits

    def _compare_starts(self) -> None:
        """Each row of a start belongs to a start in the history, and has the total of those before it."""
        columns = (STARTS.c.limit_id, STARTS.c.place, STARTS.c.amount, STARTS.c.total)
        totals: dict[int, list[int]] = {}
        for id, place, amount, total in self.raw(select(*columns).order_by(*columns[:2])):
            before = totals.setdefault(id, [])
            before.append(amount)
            assert (place, total) == (len(before), sum(before))


def _told(values: dict[str, Any]) -> dict[str, Any]:
    names = ("name", "action_name", "agent_id", "window", "max_starts", "sum_of", "max_sum")
    return {name: values[name] for name in names if values[name] is not None}
