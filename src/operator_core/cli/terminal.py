"""Control of the terminal for a full-screen program, which restores it at the end."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live

__all__ = ["on_signals", "taken", "until_signal"]


@contextmanager
def on_signals(act: Callable[[], object], *signals: signal.Signals) -> Generator[None]:
    """Calls `act` in the event loop for each of these signals while the block runs."""
    loop = asyncio.get_running_loop()
    for each in signals:
        loop.add_signal_handler(each, act)
    try:
        yield
    finally:
        for each in signals:
            loop.remove_signal_handler(each)


async def until_signal(work: Coroutine[Any, Any, None]) -> None:
    """Runs `work`, which does not end by itself, until Ctrl-C, SIGTERM or a cancellation."""
    running = asyncio.create_task(work)
    with on_signals(running.cancel, signal.SIGINT, signal.SIGTERM):
        await asyncio.wait({running})
    if not running.cancelled():
        running.result()


@contextmanager
def taken(
    console: Console, draw: Callable[[], RenderableType], on_key: Callable[[str], object]
) -> Generator[Callable[[], None]]:
    """Takes the whole screen and, if standard input is a terminal, the keyboard; yields a function that redraws.

    Ctrl-Z returns both to the shell, and the program takes them again when it continues.
    """
    live = Live(
        console=console,
        screen=True,
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
        get_renderable=draw,
    )
    keyboard = _Keyboard(on_key)

    def leave() -> None:
        # After a change of size, tmux would show the remaining content on the shell's screen.
        console.clear()
        live.stop()

    def suspend() -> None:
        leave()
        keyboard.give_back()
        # To this thread, so that it stops before it runs the next line.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        keyboard.take()
        live.start(refresh=True)

    with on_signals(suspend, signal.SIGTSTP), on_signals(live.refresh, signal.SIGWINCH):
        keyboard.take()
        try:
            live.start()
            yield live.refresh
        finally:
            leave()
            keyboard.give_back()


class _Keyboard:
    """Standard input, if it is a terminal: each key arrives at once, and is not echoed."""

    def __init__(self, on_key: Callable[[str], object]) -> None:
        self._on_key = on_key
        self._mode: list[Any] | None = None

    def take(self) -> None:
        if not sys.stdin.isatty():
            return
        import termios  # noqa: PLC0415 - Windows has none, but the other commands work there
        import tty  # noqa: PLC0415

        self._mode = termios.tcgetattr(sys.stdin)
        tty.setcbreak(sys.stdin)
        # A read must not block: Ctrl-C discards a key that the loop was about to read.
        mode = termios.tcgetattr(sys.stdin)
        mode[tty.CC][termios.VMIN] = 0
        termios.tcsetattr(sys.stdin, termios.TCSANOW, mode)
        asyncio.get_running_loop().add_reader(sys.stdin, self._read)

    def give_back(self) -> None:
        if self._mode is None:
            return
        import termios  # noqa: PLC0415

        asyncio.get_running_loop().remove_reader(sys.stdin)
        termios.tcsetattr(sys.stdin, termios.TCSANOW, self._mode)
        self._mode = None

    def _read(self) -> None:
        pressed = os.read(sys.stdin.fileno(), 1024)
        for key in pressed.decode(errors="ignore"):
            self._on_key(key)
