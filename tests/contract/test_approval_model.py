"""Approvals against a model: whatever is done in whatever order, what moves is what the model says may move."""

from dataclasses import dataclass
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from operator_core.actions import ActionError, ActionStatus, Claim, EndCode, StoredProposal
from operator_core.db import ActionDB
from tests.contract.governed import S, approve, begin, later, now, proposed, rule
from tests.contract.governed_model import DECIDABLE
from tests.contract.ledger_approvals import Decided, Required

WAITS: Final = 604_800.0
HOUR: Final = 3600.0
STEP: Final = 1500.0
"""How much time passes at once, so that what was approved at different times lapses at different times."""

DEEDS: Final = st.one_of(
    st.tuples(
        st.just("approve"),
        st.sampled_from(["mia", "noor", "kim"]),
        st.sampled_from([(), ("a",), ("b",), ("a", "b")]),
    ),
    st.tuples(st.just("withdraw"), st.sampled_from(["mia", "noor", "kim"])),
    st.tuples(st.sampled_from(["claim", "fail", "unbegun", "retry", "wait", "validate"])),
    st.tuples(st.sampled_from(["wait", "claim", "fail", "reject"])),
)
REQUIRED: Final = st.lists(
    st.fixed_dictionaries(
        {
            "roles": st.sampled_from([None, ["a"], ["b"]]),
            "approvals": st.integers(1, 2),
            "valid_for": st.sampled_from([None, HOUR]),
            "covers_retries": st.booleans(),
        }
    ),
    min_size=1,
    max_size=2,
)
ONE: Final = {"roles": None, "approvals": 1, "valid_for": HOUR, "covers_retries": True}
MIA: Final = ("approve", "mia", ())


@dataclass
class Model:
    """One proposal, and what may be done with it."""

    decided: Decided
    status: ActionStatus = S.PROPOSED

    def met(self) -> bool:
        return self.decided.met()

    def follow(self, deed: str, *how: Any) -> bool:
        """Moves as the ledger should; whether it is allowed."""
        match deed:
            case "approve":
                vote = self.decided.vote_of(*how)
                known = self.decided.has_voted(vote.person)
                if self.status not in DECIDABLE or known or not self.decided.fits(vote):
                    return False
                self.decided.votes.append(vote)
                if self.status is not S.VALIDATED and self.met():
                    self.status = S.VALIDATED
                return True
            case "withdraw":
                return self.status in DECIDABLE and self.decided.withdraw(how[0])
            case "wait":
                self.decided.time += STEP
                return True
            case "reject":
                return self.moved((S.PROPOSED, S.VALIDATED), S.CANCELLED)
            case "fail" | "unbegun":
                self.decided.begun += deed == "fail" and self.status is S.EXECUTING
                return self.moved((S.EXECUTING,), S.FAILED)
            case "claim":
                return self.met() and self.moved((S.VALIDATED,), S.EXECUTING)
            case "retry":
                return self.met() and self.moved((S.FAILED,), S.VALIDATED)
            case _:
                return self.met() and self.moved((S.PROPOSED, S.FAILED), S.VALIDATED)

    def moved(self, sources: tuple[ActionStatus, ...], target: ActionStatus) -> bool:
        if self.status not in sources:
            return False
        self.status = target
        return True


class Ledger:
    """The same proposal in a ledger."""

    def __init__(self, db: ActionDB, made: StoredProposal) -> None:
        self.db = db
        self.made = made
        self.claim: Claim | None = None

    async def follow(self, deed: str, *how: Any) -> bool:
        """Does it; whether it was allowed."""
        try:
            return await self._do(deed, *how)
        except ActionError:
            return False

    async def _do(self, deed: str, *how: Any) -> bool:
        db, id_ = self.db, self.made.id
        match deed:
            case "approve":
                return not (await approve(db, self.made, how[0], *how[1])).repeated
            case "withdraw":
                await db.withdraw_approval(id_, by=how[0], reason="r")
            case "wait":
                await later(db, STEP)
            case "reject":
                await db.reject_proposal(id_, by="lead", reason="r")
            case "claim":
                self.claim = await begin(db, self.made)
            case "fail" | "unbegun":
                if self.claim is None:
                    return False
                claim, self.claim = self.claim, None
                if deed == "fail":
                    await db.fail(claim.record.id, "boom")
                else:
                    await db._give_back([claim])
            case "retry":
                await db.retry(id_)
            case _:
                await db.update_proposal_status(id_, S.VALIDATED)
        return True


@pytest.mark.two_backends
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(required=REQUIRED, deeds=st.lists(DEEDS, min_size=3, max_size=14))
@example([ONE], [MIA, ("claim",), ("fail",), ("wait",), ("wait",), ("wait",), ("retry",), MIA])
@example([ONE], [MIA, ("wait",), ("approve", "noor", ()), ("wait",), ("wait",), ("claim",)])
@example([ONE], [MIA, ("withdraw", "mia"), ("claim",), ("approve", "noor", ()), ("claim",)])
async def test_what_moves_is_what_may_move(
    db: ActionDB, required: list[dict[str, Any]], deeds: list[tuple[Any, ...]]
) -> None:
    for old in await db.rules():
        await db.revoke_rule(old.id, by="lead", reason="next")
    for number, each in enumerate(required):
        await rule(db, f"r{number}", **each)
    made = await proposed(db, max_retries=99, retry_delay=WAITS, max_retry_delay=WAITS)
    model = Model(Decided([Required(**each) for each in required]))
    ledger = Ledger(db, made)
    for deed, *how in deeds:
        if deed == "reject" and model.status is S.FAILED:
            continue
        was_met = model.met()
        done = await ledger.follow(deed, *how)
        found = await now(db, made)
        if found.end_code is EndCode.APPROVAL_EXPIRED:
            # The sweep of a claim, which only ends what has lapsed.
            assert not was_met
            return
        assert done is model.follow(deed, *how), deed
        assert found.status is model.status
        if model.status in DECIDABLE:
            assert await db.is_approved(made.id) is model.met()
            states = (await db.approvals(made.id)).requirements
            assert all(each.met for each in states) is model.met()
