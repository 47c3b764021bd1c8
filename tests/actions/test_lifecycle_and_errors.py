"""The lifecycle table and the tree of errors."""

import inspect

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
    assert {each.__name__ for each in own} == set(errors.__all__)
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
