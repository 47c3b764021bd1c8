"""Times on the command line."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import typer

from operator_core.cli.times import to_later, to_moment, to_span

NOW = datetime(2026, 11, 29, 1, 30, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        # It is still the 28th in New York, five hours behind.
        ("today", "2026-11-28T05:00"),
        ("yesterday", "2026-11-27T05:00"),
        ("yesterday 14:00", "2026-11-27T19:00"),
        ("Today 9:05", "2026-11-28T14:05"),
        ("14:00", "2026-11-28T19:00"),
        ("14:00:30", "2026-11-28T19:00:30"),
        ("2h", "2026-11-28T23:30"),
        ("90m", "2026-11-29T00:00"),
        ("+90m", "2026-11-29T03:00"),
        ("1.5h", "2026-11-29T00:00"),
        ("2w", "2026-11-15T01:30"),
        ("2026-11-28", "2026-11-28T05:00"),
        ("2026-11-28T14:00", "2026-11-28T19:00"),
        ("2026-11-28 14:00:01.25", "2026-11-28T19:00:01.250"),
        ("2026-11-28T14:00Z", "2026-11-28T14:00"),
        ("2026-11-28T14:00+01:00", "2026-11-28T13:00"),
        # Summer time, by the zone at that moment.
        ("2026-07-01T12:00", "2026-07-01T16:00"),
    ],
)
def test_a_time_is_local_unless_it_has_an_offset(text: str, utc: str) -> None:
    assert to_moment(text, NOW) == datetime.fromisoformat(utc).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    ["", "soon", "25:00", "12:60", "yesterday noon", "tomorrow", "2026-13-01", "h", "-2h", "1e3s",
     "today 2026-11-28", "yesterday yesterday", "9999999999h", "999999999w", "1.2.3h", "2026-11-28T",
     "0001-01-01T00:00", "٣h"],
)  # fmt: skip
def test_what_is_no_time_is_an_error_that_names_the_forms(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        to_moment(text, NOW)


def test_a_time_that_is_to_come_is_from_now() -> None:
    before = datetime.now(UTC)
    assert to_later("2h") >= before + timedelta(hours=2)
    assert to_later("+2h") >= before + timedelta(hours=2)
    assert to_later("2030-01-01T00:00Z") == datetime(2030, 1, 1, tzinfo=UTC)


def test_a_length_of_time_has_a_unit() -> None:
    assert to_span("90") == to_span("90s") == to_span("1.5m") == timedelta(seconds=90)
    assert to_span("1w") == timedelta(days=7)
    for wrong in ("", "m", "-1", "1y", "1 h", "999999999w"):
        with pytest.raises(typer.BadParameter):
            to_span(wrong)
