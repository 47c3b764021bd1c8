"""Times and lengths of time on the command line."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from typing import Final

import typer

__all__ = ["to_later", "to_moment", "to_span"]

_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DAYS: Final = {"today": 0, "yesterday": 1}


def to_span(text: str) -> timedelta:
    """Parses a length of time: seconds, or a number followed by s, m, h, d or w."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smhdw]?)", text, re.ASCII)
    if match is None:
        raise typer.BadParameter(
            "must be a number of seconds, or a number followed by s, m, h, d or w"
        )
    try:
        return timedelta(seconds=float(match[1]) * _SECONDS[match[2]])
    except OverflowError:
        raise typer.BadParameter("is too long") from None


def to_later(text: str) -> datetime:
    """Parses a time that is to come, as `to_moment` does; ``2h`` is two hours from now."""
    return to_moment(text, ahead=True)


def to_moment(text: str, now: datetime | None = None, *, ahead: bool = False) -> datetime:
    """Parses a time: ISO 8601, ``14:00``, ``today``, ``yesterday 14:00``, how long ago, ``2h``, or from now, ``+2h``.

    A time without an offset is local time.
    """
    now = datetime.now(UTC) if now is None else now
    words = text.strip().lower()
    if re.fullmatch(r"\+[\d.]+[smhdw]", words, re.ASCII):
        return _within(lambda: now + to_span(words[1:]), text)
    if ahead and re.fullmatch(r"[\d.]+[smhdw]", words, re.ASCII):
        return _within(lambda: now + to_span(words), text)
    if re.fullmatch(r"[\d.]+[smhdw]", words, re.ASCII):
        return _within(lambda: now - to_span(words), text)
    day, _, rest = words.partition(" ")
    if day not in _DAYS:
        day, rest = "today", words
    date = now.astimezone().date() - timedelta(days=_DAYS[day])
    clock = time() if words in _DAYS else _clock(rest)
    if clock is not None:
        return _local(datetime.combine(date, clock))
    if day == "today" and rest == words:
        try:
            moment = datetime.fromisoformat(text.strip())
        except ValueError:
            pass
        else:
            return moment if moment.tzinfo is not None else _within(lambda: _local(moment), text)
    raise _bad(text)


def _clock(text: str) -> time | None:
    if re.fullmatch(r"\d{1,2}:\d{2}(:\d{2})?", text, re.ASCII) is None:
        return None
    try:
        return time.fromisoformat(text.zfill(5) if text.count(":") == 1 else text.zfill(8))
    except ValueError:
        return None


def _local(moment: datetime) -> datetime:
    return moment.astimezone()


def _within(read: Callable[[], datetime], text: str) -> datetime:
    try:
        return read()
    except (OverflowError, OSError, ValueError):
        raise _bad(text) from None


def _bad(text: str) -> typer.BadParameter:
    return typer.BadParameter(
        f"{text!r} must be a time: 2026-11-28T14:00 with or without +01:00, 14:00, today, "
        "'yesterday 14:00', how long ago, such as 90s, 15m, 2h, 3d, or how long from now, such as +2h"
    )
