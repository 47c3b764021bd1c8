"""Proposals, the same on every backend."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from operator_core.actions import (
    ActionProposal,
    ActionStatus,
    ActionType,
    InvalidValue,
    NotFound,
)
from operator_core.db import ActionDB
from tests.conftest import RawSQL, proposal

pytestmark = pytest.mark.each_driver

S = ActionStatus

TICKET = (
    "INSERT INTO tickets (violation_key, invariant_name, first_seen_at, last_seen_at, message) "
    "VALUES ('store_down:1', 'store_down', '2026-11-22T10:00:00', '2026-11-22T10:00:00', 'down')"
)


async def test_a_proposal_comes_back_with_its_id_and_the_databases_times(db: ActionDB) -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    given = proposal(
        action_type=ActionType.TOOL, parameters={"region_id": 7}, proposed_by="planner"
    )
    created = await db.create_proposal(given)
    after = datetime.now(UTC) + timedelta(milliseconds=1)
    assert created.id == 1
    assert created.created_at is not None
    assert created.updated_at is not None
    assert before <= created.created_at <= after
    assert created.content_digest == created.digest == given.digest
    unset = dict.fromkeys(("id", "created_at", "updated_at", "version", "content_digest"))
    assert {**created.model_dump(), **unset} == given.model_dump()
    assert await db.get_proposal(1) == created


async def test_an_unknown_id_is_none(db: ActionDB) -> None:
    assert await db.get_proposal(1) is None


async def test_a_proposal_that_has_an_id_is_refused(db: ActionDB) -> None:
    created = await db.create_proposal(proposal())
    with pytest.raises(InvalidValue, match="id"):
        await db.create_proposal(created)
    with pytest.raises(InvalidValue, match="created_at"):
        await db.create_proposal(created.model_copy(update={"id": None}))
    assert len(await db.list_proposals()) == 1


async def test_an_unknown_ticket_is_not_found(db: ActionDB, raw: RawSQL) -> None:
    with pytest.raises(NotFound) as caught:
        await db.create_proposal(proposal(ticket_id=1))
    assert (caught.value.kind, caught.value.id) == ("ticket", 1)
    await raw(TICKET)
    assert (await db.create_proposal(proposal(ticket_id=1))).ticket_id == 1


async def test_many_are_created_in_their_order(db: ActionDB) -> None:
    created = await db.create_proposals(proposal(f"step_{n}") for n in range(2500))
    assert [each.id for each in created] == list(range(1, 2501))
    stored = await db.list_proposals()
    assert list(reversed(stored)) == created
    assert [each.action_name for each in created] == [f"step_{n}" for n in range(2500)]
    assert await db.create_proposals([]) == []


async def test_many_are_created_all_or_none(db: ActionDB, raw: RawSQL) -> None:
    await raw(TICKET)
    with pytest.raises(NotFound) as caught:
        await db.create_proposals([proposal(ticket_id=1), proposal(), proposal(ticket_id=8)])
    assert caught.value.id == 8
    with pytest.raises(InvalidValue):
        await db.create_proposals([proposal(), proposal(id=5)])
    with pytest.raises(InvalidValue, match=r"proposals\[1\]"):
        await db.create_proposals([proposal(), "not a proposal"])  # type: ignore[list-item]
    assert await db.list_proposals() == []
    assert await db.history() == []


async def test_an_import_may_have_any_status_and_the_history_says_so(db: ActionDB) -> None:
    when = datetime(2026, 1, 2, tzinfo=UTC)
    imported = await db.create_proposals(
        proposal(status=status, validated_at=when) for status in ActionStatus
    )
    for each in imported:
        assert await db.get_proposal(each.id) == each
        assert each.validated_at == when
    events = await db.history()
    assert [(event.from_status, event.to_status) for event in events] == [
        (None, status) for status in ActionStatus
    ]


@pytest.fixture
async def many(db: ActionDB, raw: RawSQL) -> list[ActionProposal]:
    await raw(TICKET)
    return await db.create_proposals(
        proposal(
            f"action_{n % 3}",
            status=list(ActionStatus)[n % 6],
            ticket_id=1 if n % 5 == 0 else None,
            proposed_by=("agent", "user")[n % 2],
        )
        for n in range(60)
    )


async def test_every_filter_and_their_combinations_list_newest_first(
    db: ActionDB, many: list[ActionProposal]
) -> None:
    statuses: list[frozenset[ActionStatus] | None] = [
        None,
        frozenset({S.FAILED}),
        frozenset({S.PROPOSED, S.VALIDATED}),
        frozenset(ActionStatus),
        frozenset(),
    ]
    for status in statuses:
        for name in (None, "action_1"):
            for ticket in (None, 1):
                for by in (None, "user"):
                    for before in (None, 31):
                        for limit in (None, 4):
                            found = await db.list_proposals(
                                status,
                                action_name=name,
                                ticket_id=ticket,
                                proposed_by=by,
                                before=before,
                                limit=limit,
                            )
                            wanted = [
                                each
                                for each in reversed(many)
                                if (status is None or each.status in status)
                                and name in (None, each.action_name)
                                and ticket in (None, each.ticket_id)
                                and by in (None, each.proposed_by)
                                and (before is None or (each.id or 0) < before)
                            ]
                            assert found == wanted[:limit]


async def test_one_status_may_be_given_as_it_is_or_as_its_value(
    db: ActionDB, many: list[ActionProposal]
) -> None:
    failed = [each for each in reversed(many) if each.status is S.FAILED]
    assert await db.list_proposals(S.FAILED) == failed
    assert await db.list_proposals("failed") == failed  # type: ignore[arg-type]
    assert await db.list_proposals(limit=0) == []


@pytest.mark.two_backends
@pytest.mark.parametrize(
    "arguments",
    [
        {"status": "done"},
        {"status": ["proposed", 3]},
        {"limit": -1},
        {"limit": True},
        {"limit": 2**63},
        {"before": 0},
        {"before": "9"},
        {"ticket_id": 2**63},
        {"ticket_id": 0},
        {"action_name": "a\0b"},
        {"action_name": ""},
        {"proposed_by": "\ud800"},
    ],
)
async def test_a_filter_that_makes_no_sense_is_an_invalid_value(
    db: ActionDB, arguments: dict[str, object]
) -> None:
    with pytest.raises(InvalidValue) as caught:
        await db.list_proposals(**arguments)  # type: ignore[arg-type]
    assert next(iter(arguments)) in caught.value.path


async def test_pages_join_without_gap_or_repeat(db: ActionDB, many: list[ActionProposal]) -> None:
    seen: list[ActionProposal] = []
    page = await db.list_proposals(limit=7)
    while page:
        seen += page
        page = await db.list_proposals(limit=7, before=page[-1].id)
    assert seen == list(reversed(many))


@pytest.mark.parametrize("statuses", [None, S.PROPOSED, [S.PROPOSED, S.VALIDATED]])
@pytest.mark.parametrize(
    "filters", [{}, {"action_name": "a"}, {"action_name": "a", "proposed_by": "p"}]
)
async def test_pages_join_in_both_directions(
    db: ActionDB, statuses: Any, filters: dict[str, Any]
) -> None:
    await db.create_proposals(
        proposal("ab"[n % 2], proposed_by="pq"[n % 3 > 0], status=list(S)[n % 5]) for n in range(60)
    )
    every = await db.list_proposals(statuses, **filters)
    for oldest_first, cursor in ((False, "before"), (True, "after")):
        seen: list[ActionProposal] = []
        options: dict[str, Any] = {"oldest_first": oldest_first, "limit": 4}
        while page := await db.list_proposals(statuses, **options, **filters):
            seen += page
            options[cursor] = page[-1].id
        assert seen == (list(reversed(every)) if oldest_first else every)
        first, last = every[-2].id, every[1].id
        inner = await db.list_proposals(
            statuses, oldest_first=oldest_first, after=first, before=last, **filters
        )
        assert {each.id for each in inner} == {each.id for each in every[2:-2]}


async def test_searching_finds_text_in_parameters_reason_and_error(db: ActionDB) -> None:
    def with_(parameters: dict[str, Any], reason: str = "r") -> ActionProposal:
        return proposal("a", parameters=parameters, reason=reason)

    await db.create_proposals(
        [
            with_({"host": 'say "Hi"\\ there'}, "for Store-4"),
            with_({"path": ["ä", {"größe": 10.5}]}, "50%_off"),
            with_({"n": 1e22, "t": "line\nbreak"}, "a\nb"),
        ]
    )
    failed = await db.create_proposal(proposal("b", status=S.VALIDATED))
    claim = await db.claim_proposal(failed.id, "w")
    await db.fail(claim.record.id, "Connection REFUSED by 10.0.0.7")
    for text, ids in {
        'say "hi"': [1],
        "\\ there": [1],
        "STORE-4": [1],
        "größe": [2],
        "GRÖßE": [],
        "10.": [4, 2],
        "%_": [2],
        "_": [2],
        "%": [2],
        "line\nbreak": [3],
        "a\nb": [3],
        "refused": [4],
        "nowhere": [],
    }.items():
        found = await db.list_proposals(search=text)
        assert [each.id for each in found] == ids, text
        assert sum((await db.count_proposals(search=text)).values()) == len(ids)
        assert [each.id async for each in db.iter_proposals(search=text)] == ids
    assert len(await db.list_proposals(S.PROPOSED, search="r", action_name="a", limit=1)) == 1


async def test_iterating_gives_what_listing_gives(db: ActionDB) -> None:
    await db.create_proposals(proposal() for _ in range(2001))
    assert [each async for each in db.iter_proposals()] == await db.list_proposals()
    assert [each async for each in db.iter_proposals([S.PROPOSED], before=500)] == (
        await db.list_proposals(before=500)
    )
    assert [each async for each in db.iter_proposals(S.FAILED)] == []
    oldest = await db.list_proposals(oldest_first=True)
    assert oldest == list(reversed(await db.list_proposals()))
    assert [each async for each in db.iter_proposals(oldest_first=True)] == oldest
    between = db.iter_proposals([S.PROPOSED], oldest_first=True, after=5, before=1500)
    assert [each.id async for each in between] == list(range(6, 1500))
    once = (each for each in [S.PROPOSED])
    assert len([each async for each in db.iter_proposals(once)]) == 2001


async def test_counting_has_a_key_for_every_status(db: ActionDB) -> None:
    assert await db.count_proposals() == dict.fromkeys(ActionStatus, 0)
    await db.create_proposals([proposal(), proposal(), proposal(status=S.FAILED)])
    counts = await db.count_proposals()
    assert counts == {**dict.fromkeys(ActionStatus, 0), S.PROPOSED: 2, S.FAILED: 1}


@pytest.mark.two_backends
@pytest.mark.parametrize("id", [0, -1, 2**63, True, "1", None, 1.0])
async def test_an_id_that_can_not_be_one_is_an_invalid_value(db: ActionDB, id: object) -> None:
    calls = [
        db.get_proposal(id),  # type: ignore[arg-type]
        db.get_record(id),  # type: ignore[arg-type]
        db.get_records_for_proposal(id),  # type: ignore[arg-type]
        db.update_proposal_status(id, S.VALIDATED),  # type: ignore[arg-type]
        db.update_record(id, True),  # type: ignore[arg-type]
    ]
    for call in calls:
        with pytest.raises(InvalidValue, match="integer from 1"):
            await call


async def test_the_largest_id_is_merely_unknown(db: ActionDB) -> None:
    assert await db.get_proposal(2**63 - 1) is None
    with pytest.raises(NotFound):
        await db.update_proposal_status(2**63 - 1, S.VALIDATED)
