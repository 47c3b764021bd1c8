"""What a caller of a ledger may say next, as its model stands."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition

from operator_core.actions import ActionStatus, HaltMode
from tests.conftest import proposal
from tests.contract.ledger_limits import AMOUNT, DAY
from tests.contract.ledger_model import Model

S = ActionStatus

PAST = [datetime(2001, 1, day, tzinfo=UTC) for day in (1, 2)]
FAR = datetime(2200, 1, 1, tzinfo=UTC)
UNKNOWN = 10**9
WORKERS = ("alice", "bob")
SHORT, LONG = timedelta(milliseconds=1), timedelta(days=1)
NEVER = 604_800.0
"""A retry's delay that does not end during a test, unless jitter makes it short."""


def drawn(of: Callable[[Model], Sequence[int]]) -> st.SearchStrategy[int]:
    """One of the ids that are of interest as the model stands, or one that nothing has."""
    return st.runner().flatmap(lambda machine: st.sampled_from(of(machine.model) or [UNKNOWN]))


def some(of: Callable[[Model], object]) -> Callable[[Any], Any]:
    return precondition(lambda machine: of(machine.model))


def among(*statuses: ActionStatus) -> Callable[[Model], list[int]]:
    return lambda model: [p.id for p in model.proposals.values() if p.status in statuses]


def to_be_retried(model: Model) -> list[int]:
    return [id for id in among(S.FAILED)(model) if model.proposals[id].retried]


def open_ids(model: Model) -> list[int]:
    return [each.id for each in model.open_records()]


def silent(model: Model) -> list[int]:
    return [each.id for each in model.open_records() if each.lapsed]


def unknown(model: Model) -> list[int]:
    """Executions whose outcome nobody has found out."""
    return [each.id for each in model.records.values() if each.unknown and each.resolved is None]


def executed(model: Model) -> list[int]:
    """Proposals that a worker is at."""
    return [each.proposal_id for each in model.open_records() if model.held(each)]


def likely(*of: Callable[[Model], list[int]], among: str = "proposals") -> st.SearchStrategy[int]:
    """One of these mostly: what anything else is asked to do is refused, and leads nowhere."""

    def every(model: Model) -> list[int]:
        return [*getattr(model, among), UNKNOWN]

    return st.one_of(
        *(drawn(lambda model, ids=ids: ids(model) or every(model)) for ids in of), drawn(every)
    )


def taken_away(model: Model) -> list[int]:
    """Executions that are open, and by which their proposals are no longer moved."""
    return [each.id for each in model.open_records() if not model.held(each)]


RECORD = likely(open_ids, open_ids, taken_away, among="records")
RECORDS_AT_ONCE = st.lists(RECORD, max_size=5, unique=True)
RESULT = st.sampled_from([None, {"rows": 1}])
LAPSES = st.sampled_from([False, False, True])
AMOUNTS = st.sampled_from(
    [
        {},
        {AMOUNT: 0},
        {AMOUNT: 1},
        {AMOUNT: 3},
        {AMOUNT: 5},
        {AMOUNT: 5},
        {AMOUNT: 9},
        {AMOUNT: "1"},
    ]
)
TO_MAKE = st.builds(
    proposal,
    st.sampled_from(["move", "split"]),
    priority=st.sampled_from([0, 0, 3, -1]),
    status=st.sampled_from([S.VALIDATED] * 8 + [S.PROPOSED] * 2 + [S.FAILED, S.EXECUTING]),
    scheduled_at=st.sampled_from([None, None, None, *PAST, FAR]),
    expires_at=st.sampled_from([None, None, None, None, FAR, PAST[0]]),
    max_retries=st.integers(0, 3),
    retry_delay=st.sampled_from([0.0, 0.0, 0.0, NEVER]),
    max_retry_delay=st.just(NEVER),
    agent_id=st.sampled_from([None, None, "Bot", "other"]),
    exclusive_key=st.sampled_from([None, None, "store 4", "store 4", "store 5"]),
    parameters=AMOUNTS,
)
ASKED = "drop"
"""The action about which rules are."""
TO_ASK = st.builds(
    proposal,
    st.just(ASKED),
    priority=st.sampled_from([0, 3]),
    status=st.sampled_from([S.PROPOSED] * 8 + [S.VALIDATED, S.FAILED]),
    expires_at=st.sampled_from([None, None, None, None, None, FAR, PAST[0]]),
    max_retries=st.integers(0, 3),
    retry_delay=st.sampled_from([0.0, 0.0, NEVER]),
    max_retry_delay=st.just(NEVER),
    agent_id=st.sampled_from([None, "Bot", "other"]),
    exclusive_key=st.sampled_from([None, None, "store 4"]),
    parameters=AMOUNTS,
)
RULE = st.fixed_dictionaries(
    {
        "action_name": st.sampled_from([ASKED, ASKED, "d*p"]),
        "agent_id": st.sampled_from([None, None, None, "BOT"]),
        "above": st.sampled_from([None, None, 1, 3]),
        "denies": st.sampled_from([False] * 5 + [True]),
        "approvals": st.sampled_from([1, 1, 2]),
        "roles": st.sampled_from([None, ["a"], ["b"]]),
        "covers_retries": st.booleans(),
    }
)
GRANT = st.fixed_dictionaries(
    {
        "action_name": st.just(ASKED),
        "roles": st.sampled_from([(), ("a",), ("a", "b")]),
        "max_uses": st.sampled_from([1, 2, 50]),
    }
)
HALT = st.fixed_dictionaries(
    {
        "mode": st.sampled_from([HaltMode.HALTED, HaltMode.OBSERVE]),
        "action_name": st.sampled_from([None, ASKED, ASKED, "move", "*o*"]),
        "agent_id": st.sampled_from([None, None, None, "Bot"]),
    }
)
LIMIT = st.fixed_dictionaries(
    {
        "action_name": st.sampled_from([None, None, None, "move", "s*t"]),
        "agent_id": st.sampled_from([None, None, None, "BOT"]),
        "window": st.sampled_from([0.5 * DAY, 1.5 * DAY, 30 * DAY]),
    }
).flatmap(
    lambda scope: st.sampled_from([(1, None), (3, None), (None, 6), (None, 6), (5, 8)]).map(
        lambda most: {**scope, "max_starts": most[0], "max_sum": most[1]}
    )
)

sometimes = precondition(lambda machine: machine.steps % 8 == 7)
"""For what would undo too much of the work of others if it were as frequent."""
