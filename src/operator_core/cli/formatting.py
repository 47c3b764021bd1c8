"""Formats values for a terminal; text of agents can neither move the cursor nor hide words."""

import json
import re
import unicodedata
from datetime import datetime, timedelta
from typing import Any, Final

from pydantic import BaseModel

__all__ = [
    "clock",
    "compact",
    "json_line",
    "json_text",
    "one_line",
    "plain",
    "span",
    "when",
]

_KEPT = "\n\t"

_ODD: Final = re.compile(r"[^ -~]")


def _is_unseen(letter: str) -> bool:
    """Whether a terminal interprets the character instead of showing it: controls, formats, surrogates, separators."""
    return unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def plain(text: str) -> str:
    """Returns `text` with escapes for control characters and for marks that reorder a line."""

    def escaped(match: re.Match[str]) -> str:
        letter = match.group()
        if letter in _KEPT or not _is_unseen(letter):
            return letter
        return letter.encode("unicode_escape", "surrogatepass").decode()

    return _ODD.sub(escaped, text)


def one_line(text: str) -> str:
    """Returns `text` safe for a terminal; line breaks and runs of whitespace become one space."""
    return plain(" ".join(text.split()))


def compact(parameters: dict[str, Any], limit: int | None = 200) -> str:
    """Formats parameters like the arguments of a call, cut after `limit` characters."""
    text = ""
    for key, value in parameters.items():
        text += ", " if text else ""
        text += f"{key}={json.dumps(value, ensure_ascii=False)}"
        if limit is not None and len(text) > limit:
            return one_line(text[: limit - 1]) + "…"
    return one_line(text)


def json_line(value: BaseModel | dict[str, Any]) -> str:
    """Returns `value`, which may contain models, as one line of JSON for programs.

    Characters that `plain` would escape become ``\\u`` escapes, which mean the same in JSON.
    """
    if isinstance(value, BaseModel):
        return json_text(value.model_dump_json())
    return json_text(json.dumps(value, ensure_ascii=False, default=_dumped))


def json_text(text: str) -> str:
    """Returns JSON `text` safe for a terminal; outside its strings it must be ASCII."""

    def escaped(match: re.Match[str]) -> str:
        letter = match.group()
        if letter == "\n" or not _is_unseen(letter):
            return letter
        return json.dumps(letter)[1:-1] if ord(letter) > 0x7F else f"\\u{ord(letter):04x}"

    return _ODD.sub(escaped, text)


def _dumped(model: BaseModel) -> Any:
    return model.model_dump(mode="json")


def when(moment: datetime, *, exact: bool = False) -> str:
    """Formats `moment` in the machine's time zone, with the zone's name; with milliseconds if `exact`."""
    local = moment.astimezone()
    seconds = local.isoformat(" ", "milliseconds" if exact else "seconds")[: 23 if exact else 19]
    return f"{seconds} {local.tzname()}"


def clock(moment: datetime, now: datetime) -> str:
    """Formats `moment` in short form: only the time of day if it is on the same day as `now`."""
    local, today = moment.astimezone(), now.astimezone().date()
    return local.strftime("%H:%M:%S" if local.date() == today else "%Y-%m-%d %H:%M")


def span(time: timedelta) -> str:
    """Formats a duration in its two largest units, such as 4m57s; a negative one is 0s."""
    seconds = max(int(time.total_seconds()), 0)
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days}d{hours % 24}h"
    if hours:
        return f"{hours}h{minutes % 60}m"
    return f"{minutes}m{seconds % 60}s" if minutes else f"{seconds}s"
