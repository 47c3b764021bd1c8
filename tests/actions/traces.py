"""Texts that are a traceparent of W3C Trace Context (3.2), and texts that are none."""

from typing import Final

__all__ = ["NO_TRACES", "TRACES"]

_TRACE: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
_SPAN: Final = "00f067aa0ba902b7"

TRACES: Final = (
    f"00-{_TRACE}-{_SPAN}-01",
    f"00-{_TRACE}-{_SPAN}-00",
    f"fe-{_TRACE}-{_SPAN}-ff",
    f"00-{'0' * 31}1-{'0' * 15}1-00",
)
NO_TRACES: Final = (
    "",
    "00",
    f"ff-{_TRACE}-{_SPAN}-01",
    f"00-{'0' * 32}-{_SPAN}-01",
    f"00-{_TRACE}-{'0' * 16}-01",
    f"00-{_TRACE.upper()}-{_SPAN}-01",
    f"00-{_TRACE[:-1]}g-{_SPAN}-01",
    f"00-{_TRACE[:-1]}-{_SPAN}0-01",
    f"00-{_TRACE[:-1]}--{_SPAN[:-1]}0-01",
    f"00-{_TRACE}{_SPAN}--01",
    f"00-{_TRACE}-{_SPAN}-01-more",
    f"00-{_TRACE}-{_SPAN}-01\n",
    f" 00-{_TRACE}-{_SPAN}-0",
    f"00-{_TRACE}-{_SPAN}-0\u0661",
)
