"""Text of agents made fit for a terminal: nothing in it may move the cursor or hide a word."""

import json
import unicodedata
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel

__all__ = ["clock", "compact", "json_line", "one_line", "plain", "span", "when"]

_KEPT = "\n\t"


def plain(text: str) -> str:
    """`text` with control characters, and the marks that reorder a line, written as escapes."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        each
        if each in _KEPT or unicodedata.category(each) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else each.encode("unicode_escape", "surrogatepass").decode()
        for each in text
    )


def one_line(text: str) -> str:
    """`text` fit for a terminal, its line breaks and runs of blanks as one blank."""
    return plain(" ".join(text.split()))


def compact(parameters: dict[str, Any], limit: int = 200) -> str:
    """Parameters as one writes the arguments of a call, cut after `limit` characters."""
    text = ""
    for key, value in parameters.items():
        text += ", " if text else ""
        text += f"{key}={json.dumps(value, ensure_ascii=False)}"
        if len(text) > limit:
            return one_line(text[: limit - 1]) + "…"
    return one_line(text)


def json_line(value: Any) -> str:
    """`value` as JSON for programs, the models in it as they are."""
    return json.dumps(value, ensure_ascii=False, default=_dumped)


def _dumped(model: BaseModel) -> Any:
    return model.model_dump(mode="json")


def when(moment: datetime, *, exact: bool = False) -> str:
    """`moment` in the machine's own zone, which it names; with milliseconds if `exact`."""
    local = moment.astimezone()
    seconds = local.isoformat(" ", "milliseconds" if exact else "seconds")[: 23 if exact else 19]
    return f"{seconds} {local.tzname()}"


def clock(moment: datetime, now: datetime) -> str:
    """`moment` in as few letters as tell it to somebody who reads it at `now`."""
    local, today = moment.astimezone(), now.astimezone().date()
    return local.strftime("%H:%M:%S" if local.date() == today else "%Y-%m-%d %H:%M")


def span(time: timedelta) -> str:
    """A length of time by its two largest units, such as 4m57s; nothing is shorter than none."""
    seconds = max(int(time.total_seconds()), 0)
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days}d{hours % 24}h"
    if hours:
        return f"{hours}h{minutes % 60}m"
    return f"{minutes}m{seconds % 60}s" if minutes else f"{seconds}s"
