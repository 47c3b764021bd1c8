"""The lifecycle table and the tree of errors."""

import copy
import inspect
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from operator_core.actions import (
    FINAL_STATUSES,
    PENDING_STATUSES,
    TRANSITIONS,
    ActionStatus,
    can_move,
    errors,
    sources_of,
)

S = ActionStatus


def test_the_table_is_the_designs() -> None:
    assert dict(TRANSITIONS) == {
        S.PROPOSED: {S.VALIDATED, S.CANCELLED},
        S.VALIDATED: {S.EXECUTING, S.CANCELLED},
        S.EXECUTING: {S.COMPLETED, S.FAILED, S.CANCELLED},
        S.FAILED: {S.VALIDATED},
        S.COMPLETED: set(),
        S.CANCELLED: set(),
    }


def test_all_else_follows_from_the_table() -> None:
    assert {S.COMPLETED, S.CANCELLED} == FINAL_STATUSES
    assert {S.PROPOSED, S.VALIDATED} == PENDING_STATUSES
    for before in ActionStatus:
        for after in ActionStatus:
            assert can_move(before, after) == (after in TRANSITIONS[before])
            assert (before in sources_of(after)) == can_move(before, after)
        assert not can_move(before, before)


def test_every_error_stands_in_one_tree_that_the_docstring_shows() -> None:
    tree = [each for _, each in inspect.getmembers(errors, inspect.isclass)]
    own = [each for each in tree if each.__module__ == errors.__name__]
    assert {each.__name__ for each in own} == set(errors.__all__) - {"MAX_MESSAGE"}
    for each in own:
        assert issubclass(each, errors.ActionError)
        assert each.__doc__
        assert each.__name__ in (errors.__doc__ or "")
    assert issubclass(errors.NotFound, LookupError)
    assert issubclass(errors.InvalidTransition, ValueError)
    assert issubclass(errors.InvalidValue, ValueError)


def test_errors_carry_their_facts() -> None:
    transition = errors.InvalidTransition(4, "completed", "executing", [])
    assert (transition.id, transition.allowed) == (4, ())
    assert "it is final" in str(transition)
    assert "alembic upgrade head" in str(errors.SchemaOutdated("0001", "0002"))
    assert "upgrade operator-core" in str(errors.SchemaTooNew("0009", "0002"))


FACTS: dict[str, tuple[Any, ...]] = {
    "NotFound": ("proposal", 5),
    "InvalidTransition": (5, "completed", "executing", ["failed"]),
    "NotDue": (5, "validated", ["executing"], datetime(2030, 1, 1, tzinfo=UTC)),
    "Expired": (5, "validated", ["executing"], datetime(2030, 1, 1, tzinfo=UTC)),
    "DependencyPending": (5, "validated", ["executing"], [3, 4]),
    "TransitionHalted": (5, "proposed", "validated", ["cancelled"]),
    "TransitionUnapproved": (5, "proposed", "validated", ["cancelled"]),
    "ApprovalRequired": (["owner"],),
    "NotEligible": (5, "ann"),
    "DigestMismatch": (5, "oc1:" + "0" * 64),
    "TamperedProposal": (5,),
    "Halted": ([3, 4], "observe", {"agent_id": "a"}),
    "HaltRequested": (5,),
    "LimitReached": (5, "validated", ["executing"], 3, "drains", 10, None),
    "ExclusiveBusy": (5, "validated", ["executing"], "store-5", 4),
    "AlreadyClaimed": (5, ["completed"], "worker-1"),
    "InvalidValue": ("parameters.a[0]", "must be a finite number"),
    "Conflict": ("record", 5, "completed"),
    "VersionConflict": (5, 1, 2),
    "LeaseLost": (5, "cancelled", "oncall"),
    "Busy": (1.5, "a lock"),
    "WrongProcess": (1, 2),
    "CorruptRow": ("action_proposals", 5, "status", "is not a status"),
    "SchemaOutdated": ("0001", "0002"),
    "SchemaTooNew": ("0009", "0002"),
    "UnmanagedSchema": (["a table"],),
    "ForeignTransactions": (),
    "WouldLoseData": ("action_events", "discard-history"),
}
EVERY = [getattr(errors, name) for name in errors.__all__ if name != "MAX_MESSAGE"]


def same(error: BaseException) -> BaseException:
    return error


def fail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_every_error_is_the_same_after_a_copy_and_in_another_process(
    kind: type[errors.ActionError],
) -> None:
    error = kind(*FACTS.get(kind.__name__, ("why",)))
    error.add_note("seen by a worker")
    for again in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert type(again) is kind
        assert str(again) == str(error)
        assert vars(again) == vars(error)


def test_a_pool_of_processes_brings_them_back() -> None:
    errors_ = [kind(*FACTS.get(kind.__name__, ("why",))) for kind in EVERY]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        for error in errors_:
            raised = pool.submit(fail, error).exception()
            assert (type(raised), str(raised)) == (type(error), str(error))
            assert pool.submit(same, error).result().__dict__ == error.__dict__


def test_messages_are_bounded() -> None:
    long = "x" * 100_000
    for error in (
        errors.UnmanagedSchema([long] * 100),
        errors.InvalidValue(long, long),
        errors.DependencyPending(1, "validated", [], range(1, 1001)),
        errors.CorruptRow("t", 1, long, long),
        errors.LeaseLost(1, long, long),
        errors.StorageUnavailable(long),
    ):
        assert len(str(error)) <= errors.MAX_MESSAGE
