"""Who decides at once about one proposal: one of them wins, and the history tells which."""

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psycopg
import pytest

from operator_core.actions import ActionStatus, Rule
from operator_core.db import ActionDB
from tests.databases import connected
from tests.failures.harness import finish, let_go, proposal, start
from tests.failures.worker_processes import Place, check_whole, seen

WHO: Final = {"by": "lead", "reason": "race"}
S = ActionStatus

on_each = pytest.mark.parametrize("backend", ["file", "postgresql"])

Told = dict[str, dict[int, Any]]
"""By racer and proposal: the id of what was written, or the name of the error."""


async def prepared(place: Place, many: int, approvals: int, before: Sequence[str]) -> list[int]:
    """Proposals that need so many approvals and have some."""
    async with ActionDB(place, busy_timeout=60) as db:
        await db.add_rule(Rule(name="race", approvals=approvals), **WHO)
        made = await db.create_proposals(proposal() for _ in range(many))
        for each in made:
            for by in before:
                await db.approve_proposal(each.id, by=by, digest=each.digest)
    return [each.id for each in made]


def race(place: Place, racers: Mapping[str, str], ids: Sequence[int], meetings: int) -> Told:
    """Each racer in a process of its own does its deed to each proposal, all at once."""
    given = json.dumps([*ids])
    children = {name: start("approval_racer.py", place, name, deed, given) for name, deed in racers.items()}  # fmt: skip
    try:
        for of in ids[:meetings]:
            let_go([*children.values()], str(of))
        return {name: dict(finish(child)[0]) for name, child in children.items()}
    finally:
        for child in children.values():
            child.kill()
            child.communicate()


def histories(place: Place) -> dict[int, list[tuple[str, str, str, str]]]:
    """By proposal: the kind, actor, new status and details of its events."""
    found: dict[int, list[tuple[str, str, str, str]]] = defaultdict(list)
    for of, *event in seen(
        place,
        "SELECT proposal_id, event_type, actor, to_status, CAST(details AS TEXT) FROM action_events"
        " WHERE proposal_id IS NOT NULL ORDER BY id",
    ):
        found[of].append(tuple(event))
    return found


def live(events: Sequence[tuple[str, str, str, str]]) -> set[str]:
    """Who has approved by these events, and has not withdrawn it."""
    persons: set[str] = set()
    for kind, actor, *_ in events:
        if kind == "approved":
            persons.add(actor)
        if kind == "approval_withdrawn":
            persons.discard(actor)
    return persons


def won(told: Any) -> bool:
    return isinstance(told, int)


@on_each
@pytest.mark.parametrize("ready", [False, True], ids=["one is missing", "it is ready"])
async def test_one_decision_wins(place: Place, ready: bool) -> None:
    needed = 1 if ready else 2
    ids = await prepared(place, 40, needed, ["mia"])
    racers = {
        "noor": "approve", "kim": "reject", "mia": "withdraw", "worker": "claim", "ana": "amend",
    }  # fmt: skip
    told = await asyncio.to_thread(race, place, racers, ids, len(ids))
    rows = {of: (status, code) for of, status, code in seen(place, "SELECT id, status, end_code FROM action_proposals")}  # fmt: skip
    events = histories(place)
    winners: Counter[str] = Counter()
    for of in ids:
        answers = {name: told[name][of] for name in racers}
        history = events[of]
        kinds = [kind for kind, *_ in history]
        ends = [name for name in ("kim", "worker", "ana") if won(answers[name])]
        assert len(ends) <= 1, (answers, history)
        winners[(*ends, "nobody")[0]] += 1
        # Who was told that it is done has it in the history, and nobody else.
        assert won(answers["noor"]) is (("approved", "noor") in [each[:2] for each in history])
        assert won(answers["mia"]) is ("approval_withdrawn" in kinds), answers
        assert won(answers["kim"]) is ("rejected" in kinds) is (rows[of][1] == "rejected")
        assert won(answers["ana"]) is (rows[of][1] == "superseded")
        assert won(answers["worker"]) is (rows[of][0] == "executing")
        for at, (_, _, to_status, _) in enumerate(history):
            if to_status in ("validated", "executing"):
                assert len(live(history[:at])) >= needed, history
                assert "rejected" not in kinds[:at]
        if "rejected" in kinds:
            assert history[kinds.index("rejected") + 1][2] == "cancelled"
            assert len(history) == kinds.index("rejected") + 2, "nothing comes after it"
        assert kinds.count("rejected") + kinds.count("approval_withdrawn") <= 2
    superseding = seen(place, "SELECT supersedes_id, id FROM action_proposals WHERE supersedes_id IS NOT NULL")  # fmt: skip
    assert dict(superseding) == {of: told["ana"][of] for of in ids if won(told["ana"][of])}
    assert len(superseding) == winners["ana"]
    assert seen(place, "SELECT status FROM action_proposals WHERE supersedes_id IS NOT NULL AND status <> 'proposed'") == []  # fmt: skip
    errors = {str(each) for name in racers for each in told[name].values() if not won(each)}
    assert errors <= {
        "Conflict", "InvalidTransition", "TransitionUnapproved", "AlreadyClaimed", "NotEligible",
    }, errors  # fmt: skip
    print(f"\n{len(ids)} races: {dict(winners)}")
    check_whole(place)


@on_each
async def test_a_quorum_that_many_complete_at_once_validates_once(place: Place) -> None:
    ids = await prepared(place, 25, 4, ["mia", "kim"])
    racers = {f"person-{n}": "approve" for n in range(6)}
    told = await asyncio.to_thread(race, place, racers, ids, len(ids))
    for of, history in histories(place).items():
        validated = [at for at, event in enumerate(history) if event[2] == "validated"]
        assert len(validated) == 1, history
        assert len(live(history[: validated[0]])) == 4
        assert all(won(told[name][of]) for name in racers)
        assert len(live(history)) == 8
    check_whole(place)


@on_each
async def test_one_person_in_many_processes_is_one_vote(place: Place) -> None:
    ids = await prepared(place, 25, 2, [])
    racers = dict.fromkeys(("mia", "MIA", "Mia", "mIA", "miA"), "approve")
    told = await asyncio.to_thread(race, place, racers, ids, len(ids))
    for of in ids:
        assert Counter(won(told[name][of]) for name in racers) == {True: 1, False: 4}
        assert {told[name][of] for name in racers if not won(told[name][of])} == {"repeated"}
    assert seen(place, "SELECT count(*) FROM action_decisions") == [(len(ids),)]
    assert seen(place, "SELECT id FROM action_proposals WHERE status <> 'proposed'") == []
    check_whole(place)


@on_each
async def test_a_grant_of_n_uses_gives_n(place: Place) -> None:
    writers, each, uses = 16, 6, 50
    async with ActionDB(place, busy_timeout=60) as db:
        await db.add_rule(Rule(name="race"), **WHO)
        until = datetime.now(UTC) + timedelta(days=1)
        granted = await db.grant(
            by="mia", action_name="*", max_uses=uses, valid_until=until, reason="r"
        )
    racers = {f"writer-{n}": "propose" for n in range(writers)}
    # Nobody knows these ids; they only say how many.
    ids = range(1_000_000, 1_000_000 + each)
    told = await asyncio.to_thread(race, place, racers, ids, 1)
    statuses = Counter(status for name in racers for status in told[name].values())
    assert statuses == {"validated": uses, "proposed": writers * each - uses}
    written = seen(place, "SELECT status, count(*) FROM action_proposals GROUP BY status")
    assert dict(written) == statuses
    by_grant = f"SELECT count(*), count(DISTINCT proposal_id) FROM action_decisions WHERE grant_id = {granted.id}"  # fmt: skip
    assert seen(place, by_grant) == [(uses, uses)]
    async with ActionDB(place) as db:
        assert [each.uses for each in await db.grants()] == [uses]
    check_whole(place)


# ------ transactions that see an old state

INSERT: Final = (
    "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at, content_digest)"
    " VALUES ('race', '{}', 'r', now(), 'oc1:' || repeat('0', 64))"
)


async def with_old_snapshot(url: str) -> Any:
    conn = await psycopg.AsyncConnection.connect(url)
    await conn.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
    await conn.execute("SELECT count(*) FROM action_proposals")
    return conn


@pytest.mark.parametrize("change", ["withdraw", "reject", "require"])
async def test_an_old_snapshot_starts_nothing(server_ledger: str, change: str) -> None:
    (of,) = await prepared(server_ledger, 1, 1, ["mia"])
    old = await with_old_snapshot(server_ledger)
    async with ActionDB(server_ledger) as db:
        if change == "withdraw":
            await db.withdraw_approval(of, by="mia", reason="no")
        elif change == "reject":
            await db.reject_proposal(of, by="noor", reason="no")
        else:
            with connected(server_ledger) as conn:
                conn.execute(
                    "INSERT INTO action_requirements (proposal_id, name) VALUES (%s, 'more')", (of,)
                )
        with pytest.raises(psycopg.errors.SerializationFailure):
            await old.execute(f"UPDATE action_proposals SET status = 'executing' WHERE id = {of}")
        await old.close()
        found = await db.get_proposal(of)
        assert found is not None
        assert found.status is not S.EXECUTING


async def test_old_snapshots_use_no_grant_twice(server_ledger: str) -> None:
    async with ActionDB(server_ledger) as db:
        await db.add_rule(Rule(name="race"), **WHO)
        until = datetime.now(UTC) + timedelta(days=1)
        await db.grant(by="mia", action_name="*", max_uses=1, valid_until=until, reason="r")
        first, second = [await with_old_snapshot(server_ledger) for _ in range(2)]
        for conn in (first, second):
            # To be refused is as good as to wait for people.
            with suppress(psycopg.errors.SerializationFailure):
                await conn.execute(INSERT)
                await conn.commit()
            await conn.close()
        assert [each.uses for each in await db.grants()] == [1]
        assert (await db.count_proposals())[S.VALIDATED] == 1


async def test_a_revoked_grant_is_used_by_no_old_snapshot(server_ledger: str) -> None:
    async with ActionDB(server_ledger) as db:
        await db.add_rule(Rule(name="race"), **WHO)
        until = datetime.now(UTC) + timedelta(days=1)
        granted = await db.grant(
            by="mia", action_name="*", max_uses=9, valid_until=until, reason="r"
        )
        old = await with_old_snapshot(server_ledger)
        await db.revoke_grant(granted.id, **WHO)
        with suppress(psycopg.errors.SerializationFailure):
            await old.execute(INSERT)
            await old.commit()
        await old.close()
        assert (await db.count_proposals())[S.VALIDATED] == 0


async def test_a_rule_holds_for_old_snapshots(server_ledger: str) -> None:
    async with ActionDB(server_ledger) as db:
        old = await with_old_snapshot(server_ledger)
        await db.add_rule(Rule(name="race"), **WHO)
        with suppress(psycopg.errors.SerializationFailure):
            await old.execute(INSERT)
            await old.commit()
        await old.close()
        for each in await db.list_proposals():
            assert each.approval == "needed"
