"""What comes back is what went in, or it never went in: the same answer on every backend."""

import asyncio
import itertools
import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from operator_core.actions import ActionProposal, ActionRecord, InvalidValue, StoredProposal
from operator_core.actions.digest import proposal_digest
from operator_core.actions.values import MAX_DELAY, MAX_JSON_BYTES
from operator_core.db import ActionDB
from tests.conftest import RawSQL, proposal

pytestmark = pytest.mark.each_driver

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
SAID = TEXT.filter(lambda text: bool(text.strip()))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
OBJECT = st.dictionaries(TEXT, JSON, max_size=4)
MOMENT = st.datetimes(
    datetime(1970, 1, 2), datetime(9998, 12, 30), timezones=st.timezones() | st.none()
)  # fmt: skip

LAW = settings(
    max_examples=60,
    deadline=None,
    # The ledger is append-only and every example looks at its own rows.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def exactly(value: Any) -> Any:
    """`value` so that 1, 1.0 and True differ, and 0.0 and -0.0."""
    if isinstance(value, dict):
        return {key: exactly(item) for key, item in value.items()}
    if isinstance(value, list):
        return [exactly(item) for item in value]
    if isinstance(value, float):
        return ("float", value, math.copysign(1, value))
    return (type(value).__name__, value)


async def round_trip(db: ActionDB, given: ActionProposal) -> ActionProposal:
    created = await db.create_proposal(given)
    stored = await db.get_proposal(created.id)
    assert stored == created
    assert stored is not None
    return stored


@LAW
@given(parameters=OBJECT, reason=SAID.map(lambda text: text[:500] + "."), moment=MOMENT)
async def test_every_value_that_is_taken_comes_back(
    db: ActionDB, parameters: dict[str, Any], reason: str, moment: datetime
) -> None:
    given = proposal(parameters=parameters, reason=reason, proposed_at=moment)
    stored = await round_trip(db, given)
    assert exactly(stored.parameters) == exactly(parameters)
    assert stored.reason == reason
    assert stored.proposed_at == moment.astimezone(UTC)
    assert stored.proposed_at.tzinfo is UTC
    assert StoredProposal.model_validate_json(stored.model_dump_json()) == stored


@LAW
@given(parameters=OBJECT, moment=MOMENT, delay=st.floats(0, MAX_DELAY))
@example(parameters={}, moment=datetime(2026, 1, 2, tzinfo=UTC), delay=-0.0)
async def test_a_stored_proposal_has_the_digest_of_the_given_one(
    db: ActionDB, parameters: dict[str, Any], moment: datetime, delay: float
) -> None:
    first, second = [(await db.create_proposal(proposal())).id for _ in range(2)]
    given = proposal(
        parameters=parameters,
        scheduled_at=moment,
        max_retries=1,
        retry_delay=delay,
        depends_on=(second, first),
    )
    stored = await round_trip(db, given)
    assert proposal_digest(vars(stored)) == proposal_digest(vars(given))


@pytest.mark.parametrize(
    "value",
    [
        10**400,
        -(10**30),
        2**63,
        -0.0,
        1.0,
        1,
        True,
        5e-324,
        1.7976931348623157e308,
        0.1,
        "",
        "x" * 65536,
        "👩‍🚒 שלום مرحبا",
        "\x01\x1f\x7f\u2028\ufeff",
        "'; DROP TABLE action_proposals; --",
        [],
        {},
        {"": {"": []}},
        {"__class__": "x", "$ref": "#"},
        [[[None]]],
    ],
    ids=itertools.count(),
)
async def test_values_come_back_equal_and_of_the_same_type(db: ActionDB, value: object) -> None:
    stored = await round_trip(db, proposal(parameters={"value": value}))
    assert exactly(stored.parameters) == exactly({"value": value})
    record = await db.create_record(
        ActionRecord(proposal_id=stored.id, success=True, result_data={"value": value})
    )
    assert exactly(record.result_data) == exactly({"value": value})


def nested(depth: int) -> dict[str, Any]:
    innermost: dict[str, Any] = {}
    value = innermost
    for _ in range(depth - 1):
        value = {"a": value}
    return value


BAD = [
    ({"a": [1, math.nan]}, "parameters.a[1]"),
    ({"a": {"b": math.inf}}, "parameters.a.b"),
    (json.loads('{"a": 1e400}'), "parameters.a"),
    (nested(65), "parameters" + ".a" * 64),
    ({1: "a", "1": "b"}, "parameters"),
    ({"a": {None: 1}}, "parameters.a"),
    ({"a": "\0"}, "parameters.a"),
    ({"a\0": 1}, "parameters['a\\x00']"),
    ({"odd key": ["\ud800"]}, "parameters['odd key'][0]"),
    ({"a": b"bytes"}, "parameters.a"),
    ({"a": {1, 2}}, "parameters.a"),
    ({"a": (1,)}, "parameters.a"),
    ({"a": datetime.now(UTC)}, "parameters.a"),
    ({"a": 10**5000}, "parameters.a"),
    ([], "parameters"),
    ("{}", "parameters"),
    (None, "parameters"),
]


@pytest.mark.two_backends
@pytest.mark.parametrize(("parameters", "path"), BAD, ids=itertools.count())
async def test_what_can_not_be_kept_is_refused_with_its_path(
    db: ActionDB, parameters: Any, path: str
) -> None:
    with pytest.raises(InvalidValue) as caught:
        await db.create_proposal(proposal(parameters=parameters))
    assert caught.value.path == path
    # A dict inside a frozen model can still be changed, and model_copy checks nothing.
    smuggled = proposal().model_copy(update={"parameters": parameters})
    with pytest.raises(InvalidValue) as caught:
        await db.create_proposal(smuggled)
    assert caught.value.path == path
    with pytest.raises(InvalidValue):
        await db.create_proposals([proposal(), smuggled])
    assert await db.list_proposals() == []


@pytest.mark.two_backends
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("status", "done"),
        ("reason", "\ud800"),
        ("reason", "a\0b"),
        ("action_name", "  "),
        ("ticket_id", 2**70),
        ("proposed_at", "yesterday"),
        ("action_type", None),
    ],
)
async def test_a_copy_that_was_never_checked_is_checked(
    db: ActionDB, field: str, value: object
) -> None:
    with pytest.raises(InvalidValue) as caught:
        await db.create_proposal(proposal().model_copy(update={field: value}))
    assert caught.value.path == field
    record = ActionRecord(proposal_id=1).model_copy(update={"proposal_id": 2**70})
    with pytest.raises(InvalidValue) as caught:
        await db.create_record(record)
    assert caught.value.path == "proposal_id"


async def test_what_is_kept_is_what_it_was_when_the_call_was_made(db: ActionDB) -> None:
    given = proposal(parameters={"a": [1]})
    creating = asyncio.ensure_future(db.create_proposal(given))
    await asyncio.sleep(0)
    given.parameters["a"].append(2)
    created = await creating
    assert created.parameters == {"a": [1]}
    record = await db.create_record(ActionRecord(proposal_id=created.id))
    result: dict[str, Any] = {"n": 1}
    ending = asyncio.ensure_future(db.update_record(record.id, True, result_data=result))
    await asyncio.sleep(0)
    result["n"] = 2
    await ending
    ended = await db.get_record(record.id)
    assert ended is not None
    assert ended.result_data == {"n": 1}


async def test_messages_hold_no_values(db: ActionDB) -> None:
    secret = "hunter2"
    with pytest.raises(InvalidValue) as caught:
        await db.create_proposal(proposal(parameters={"password": {secret}}))
    assert secret not in str(caught.value)
    with pytest.raises(InvalidValue) as caught:
        proposal(proposed_by=[secret])
    assert secret not in f"{caught.value!r} {caught.value.__cause__} {caught.value.__context__}"


async def test_depth_64_is_kept_and_65_is_not(db: ActionDB) -> None:
    assert (await round_trip(db, proposal(parameters=nested(64)))).parameters == nested(64)


async def test_a_megabyte_is_kept_and_a_byte_more_is_not(db: ActionDB) -> None:
    frame = len('{"a":""}')
    for character in ("x", "é", "語", "🚒"):
        width = len(character.encode())
        fits = "x" * ((MAX_JSON_BYTES - frame) % width) + character * (
            (MAX_JSON_BYTES - frame) // width
        )
        assert (await round_trip(db, proposal(parameters={"a": fits}))).parameters == {"a": fits}
        with pytest.raises(InvalidValue, match=f"larger than {MAX_JSON_BYTES} bytes") as caught:
            await db.create_proposal(proposal(parameters={"a": fits + "x"}))
        assert caught.value.path == "parameters"


async def test_the_limit_is_the_ledgers_to_set(open_ledger: Any) -> None:
    db = await open_ledger(max_json_bytes=20)
    await round_trip(db, proposal(parameters={"a": "x" * 12}))
    with pytest.raises(InvalidValue, match="larger than 20 bytes"):
        await db.create_proposal(proposal(parameters={"a": "x" * 13}))


SQL = ["'; DROP TABLE action_proposals; --", '" OR 1=1 --', "%", "_", "\\", "?1 :id $x @y", "a\nb"]


@pytest.mark.parametrize("text", SQL)
async def test_sql_in_every_text_is_text(db: ActionDB, raw: RawSQL, text: str) -> None:
    given = proposal(text, reason=text, proposed_by=text, parameters={text: text})
    stored = await round_trip(db, given)
    assert (stored.action_name, stored.reason, stored.proposed_by) == (text, text, text)
    assert stored.parameters == {text: text}
    await db.create_proposal(proposal("other"))
    assert [each.id for each in await db.list_proposals(action_name=text)] == [stored.id]
    assert [each.id for each in await db.list_proposals(proposed_by=text)] == [stored.id]
    assert await db.list_proposals(action_name=text + "%") == []
    await db.update_proposal_status(stored.id, "validated", actor=text, reason=text)  # type: ignore[arg-type]
    event = (await db.history(stored.id))[-1]
    assert (event.actor, event.reason) == (text, text)
    record = await db.create_record(ActionRecord(proposal_id=stored.id))
    await db.update_record(record.id, False, text, {text: text})
    ended = await db.get_record(record.id)
    assert ended is not None
    assert (ended.error_message, ended.result_data) == (text, {text: text})


@pytest.mark.parametrize(
    ("moment", "stored"),
    [
        (
            datetime(2026, 7, 1, 12, tzinfo=timezone(timedelta(hours=2))),
            datetime(2026, 7, 1, 10, tzinfo=UTC),
        ),
        (
            datetime(1970, 1, 1, tzinfo=UTC),
            datetime(1970, 1, 1, tzinfo=UTC),
        ),
        (
            datetime(9998, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
            datetime(9998, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        ),
    ],
)
async def test_times_are_kept_in_utc_to_the_microsecond(
    db: ActionDB, moment: datetime, stored: datetime
) -> None:
    found = (await round_trip(db, proposal(proposed_at=moment))).proposed_at
    assert (found, found.utcoffset()) == (stored, timedelta(0))


@pytest.mark.two_backends
@pytest.mark.parametrize(
    "moment",
    [
        datetime.max,
        datetime.min,
        datetime.max.replace(tzinfo=UTC),
        datetime(9999, 1, 1, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC),
        datetime(1970, 1, 1, tzinfo=timezone(timedelta(hours=1))),
    ],
)
async def test_times_out_of_range_are_refused(db: ActionDB, moment: datetime) -> None:
    with pytest.raises(InvalidValue) as caught:
        await db.create_proposal(proposal(proposed_at=moment))
    assert caught.value.path == "proposed_at"
