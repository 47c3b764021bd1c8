"""What stands between a ledger and its server in a test: it counts round trips, and cuts connections."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from sqlalchemy.engine import make_url

_SYNC = b"S"
_QUERY = b"Q"
_FLUSH = b"H"
_VERSION_3 = b"\x00\x03"


class Proxy:
    """Forwards PostgreSQL's protocol (manual, chapter 55) message by message.

    A round trip ends with a Sync, or is a simple Query, from the client. `cut_after` is asked of each
    with the texts of the statements in it; if it says so, the server gets what was said and the
    client no answer. `cut_before` says that the server does not get the end of it either, and
    `cut_prepared` is asked as `cut_after` where a statement was prepared and is not run yet. Unless
    it `hears`, nothing gets through either way, and nobody is told: as if the server's host had vanished.
    """

    def __init__(self, url: str) -> None:
        self._target = make_url(url)
        self.url = ""
        self.trips = 0
        self.cut_after: Callable[[bytes], bool] = lambda said: False
        self.cut_before: Callable[[bytes], bool] = lambda said: False
        self.cut_prepared: Callable[[bytes], bool] = lambda said: False
        self.cuts = 0
        self.hears = asyncio.Event()
        self.hears.set()
        self._connections: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        upstream = await asyncio.open_connection(self._target.host, self._target.port or 5432)
        answers = asyncio.create_task(self._pump(upstream[0], writer))
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                await self._forward(reader, upstream[1], answers)
        finally:
            answers.cancel()
            upstream[1].close()
            writer.close()
            self._connections.discard(task)

    async def _forward(
        self,
        reader: asyncio.StreamReader,
        server: asyncio.StreamWriter,
        answers: asyncio.Task[None],
    ) -> None:
        # The messages at the start have no type: maybe requests for encryption, then the real one.
        while True:
            size = await reader.readexactly(4)
            body = await reader.readexactly(int.from_bytes(size) - 4)
            server.write(size + body)
            if body[:2] == _VERSION_3:
                break
        said = b""
        while True:
            kind = await reader.readexactly(1)
            size = await reader.readexactly(4)
            body = await reader.readexactly(int.from_bytes(size) - 4)
            said += kind + body
            await self.hears.wait()
            cut = kind == _FLUSH and self.cut_prepared(said)
            if kind in (_SYNC, _QUERY):
                self.trips += 1
                if self.cut_before(said):
                    self.cuts += 1
                    return
                cut = self.cut_after(said)
                said = b""
            if cut:
                answers.cancel()
                with suppress(asyncio.CancelledError):
                    await answers
            server.write(kind + size + body)
            await server.drain()
            if cut:
                self.cuts += 1
                # Until the server has nothing more to say, so that it has done what it was told.
                return

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                await self.hears.wait()
                writer.write(data)
                await writer.drain()
            writer.close()

    async def close(self) -> None:
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[Proxy]:
    """A proxy to the server of `url`; its own `url` leads through it."""
    proxy = Proxy(url)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    through = make_url(url).set(host="127.0.0.1", port=port)
    proxy.url = through.render_as_string(hide_password=False)
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
        await server.wait_closed()
