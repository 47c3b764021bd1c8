"""Text of agents made fit for a terminal: nothing in it may move the cursor or hide a word."""

import json
import unicodedata
from datetime import datetime
from typing import Any

__all__ = ["compact", "one_line", "plain", "when"]

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


def when(moment: datetime, *, exact: bool = False) -> str:
    """`moment` in the machine's own zone, which it names; with milliseconds if `exact`."""
    local = moment.astimezone()
    seconds = local.isoformat(" ", "milliseconds" if exact else "seconds")[: 23 if exact else 19]
    return f"{seconds} {local.tzname()}"
