"""`SyncActionDB` has what `ActionDB` has: each verb with its parameters, its docstring and its result."""

import inspect
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, get_type_hints

import pytest

from operator_core.db import ActionDB, ActionLedger, SyncActionDB, SyncActionLedger
from operator_core.worker import run_sync_worker, run_worker

OTHERS = {
    # What differs beside `async`: these have their own types.
    "claimed": "SyncExecution",
    "holding": "SyncExecution",
    "transaction": "SyncActionLedger",
    "changes": "threading.Event",
}


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def signature(function: Any) -> list[tuple[str, Any, Any]]:
    """The parameters without `self`: name, kind and default."""
    parameters = list(inspect.signature(function).parameters.values())
    return [(each.name, each.kind, each.default) for each in parameters if each.name != "self"]


@pytest.mark.parametrize(
    ("ours", "theirs"), [(SyncActionLedger, ActionLedger), (SyncActionDB, ActionDB)]
)
def test_every_verb_is_there_with_its_parameters(ours: type, theirs: type) -> None:
    assert public(ours) == public(theirs)
    for name in public(theirs):
        verb = getattr(theirs, name)
        if callable(verb):
            assert signature(getattr(ours, name)) == signature(verb), name


def test_nothing_is_asynchronous() -> None:
    for name in public(SyncActionDB):
        found = getattr(SyncActionDB, name)
        function = getattr(found, "__func__", found)
        assert not inspect.iscoroutinefunction(function), name
        assert not inspect.isasyncgenfunction(function), name


def test_verbs_keep_their_docstrings_and_annotations() -> None:
    for name in public(SyncActionLedger) - set(OTHERS):
        ours, verb = getattr(SyncActionLedger, name), getattr(ActionLedger, name)
        assert ours.__doc__ == verb.__doc__, name
        assert get_type_hints(ours) == get_type_hints(verb), name


def test_what_yields_is_known() -> None:
    yielding = {
        name
        for name in public(ActionLedger)
        if getattr(get_type_hints(getattr(ActionLedger, name)).get("return"), "__origin__", None)
        in (AsyncIterator, AsyncGenerator)
    }
    assert yielding - set(OTHERS) == {"events", "iter_proposals"}


def test_the_constructor_and_the_worker_take_the_same() -> None:
    assert signature(SyncActionDB.__init__) == signature(ActionDB.__init__)
    assert signature(run_sync_worker) == signature(run_worker)
