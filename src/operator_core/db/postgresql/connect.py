"""From a URL to an engine on PostgreSQL: drivers, several hosts, and the settings of each connection.

A URL is what libpq takes (PostgreSQL manual, "Connection URIs"): ``postgresql://user@host/db?...``,
with several hosts and every parameter of it, ``options=-csearch_path%3Dledger`` among them. Both drivers
read that form themselves, so what was checked here is handed on in it.
"""

import asyncio
import importlib
import os
import re
import select
import socket
from collections.abc import Callable
from itertools import zip_longest
from typing import Any, Final
from urllib.parse import quote, urlencode

from sqlalchemy import Connection, Dialect, event
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import IsolationLevel
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from operator_core.actions.errors import InvalidValue, StorageUnavailable
from operator_core.db.postgresql.libpq import Parameters, read_parameters
from operator_core.db.postgresql.settings import (
    ALL,
    pin_statement,
    reported_wrong,
    startup_options,
    unpinned_settings,
)
from operator_core.db.sql.urls import check_parts, hosts_of, parse_url

__all__ = [
    "end_transaction",
    "hold_isolation",
    "in_transaction",
    "is_closed",
    "is_lost",
    "is_stale",
    "make_engine",
    "parse_url",
    "ping",
    "unpinned_settings",
]

DEFAULT_DRIVER: Final = "asyncpg"
"""What ``postgresql://`` means; docs/performance.md says how much faster it is."""

_EXTRAS: Final = {"asyncpg": "postgres", "psycopg": "psycopg"}


def make_engine(url: URL, *, pool_size: int, timeout: float) -> AsyncEngine:
    """An engine whose connections are in autocommit mode unless a unit of work asks for more.

    `pool_size` connections at the most; who waits longer than `timeout` seconds for one is told.
    Raises `InvalidValue` for a URL that can't be used, `StorageUnavailable` without the driver.
    """
    url = parse_url(url)
    _, _, named = url.drivername.partition("+")
    driver = named or DEFAULT_DRIVER
    if driver not in _EXTRAS:
        raise InvalidValue("url", f"must name one of the drivers {', '.join(_EXTRAS)}")
    connector = _CONNECTORS[driver](url)
    engine = create_async_engine(
        f"postgresql+{driver}://",
        async_creator=connector.connect,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=timeout,
        # The same few connections under little load, so that the others may age out on the server.
        pool_use_lifo=True,
    )
    pool = engine.sync_engine.pool

    def connected(connection: Any, _: object) -> None:
        # After all that listens to every engine of the program, and may have changed what it likes.
        others = bool(getattr(pool.dispatch.connect, "parent_listeners", True))
        connector.pin(engine.dialect, connection, again=others)

    event.listen(pool, "connect", connected)
    return engine


class _Connector:
    """Makes connections to one place, with the ledger's settings pinned."""

    def __init__(self, url: URL, parameters: Parameters, options: str = "") -> None:
        check_parts(url)
        self._url = url
        self._asked = parameters.query.pop("options", options)
        self._query = parameters.query
        self.parameters = parameters
        # A service's file has options of its own, maybe, which these would take the place of.
        self._pinned = "service" not in self._query or bool(self._asked)

    async def connect(self) -> Any:
        """A connection of the driver's."""
        if self._pinned:
            try:
                return await self._open({"options": startup_options(self._asked)})
            except Exception as error:
                if self._asked or not _takes_no_options(error):
                    raise
            self._pinned = False
        return await self._open({"options": self._asked} if self._asked else {})

    async def _open(self, options: dict[str, str]) -> Any:
        return await self._connect(_dsn(self._url, {**self._query, **options}))

    async def _connect(self, dsn: str) -> Any:
        raise NotImplementedError

    def pin(self, dialect: Dialect, connection: Any, *, again: bool) -> None:
        """Pins the settings that do not hold yet, in a greenlet; those of the start `again` if asked to."""
        driver_connection = dialect.get_driver_connection(connection)
        wrong = ALL if again and self._pinned else reported_wrong(driver_connection)
        if wrong:
            dialect.set_isolation_level(connection, "AUTOCOMMIT")
            _execute(connection, pin_statement(wrong))


class _Asyncpg(_Connector):
    def __init__(self, url: URL) -> None:
        super().__init__(url, read_parameters(url, "asyncpg"))
        if not self.parameters.prepared:
            # Its protocol sends a statement and its arguments in two rounds, between which PgBouncer
            # may hand the server's connection to somebody else.
            raise InvalidValue(
                "url?prepared_statements", "can't be off with asyncpg: use postgresql+psycopg://"
            )
        self._driver = _imported("asyncpg")

    async def _connect(self, dsn: str) -> Any:
        timeout = self.parameters.connect_timeout
        connection = await self._driver.connect(dsn, timeout=timeout)
        _keep_alive(_socket_of(connection), self.parameters.keepalive)
        return connection


class _Psycopg(_Connector):
    def __init__(self, url: URL) -> None:
        psycopg = self._driver = _imported("psycopg")
        known = {each.keyword.decode() for each in psycopg.pq.Conninfo.get_defaults()}
        # libpq's own variable, which the parameter takes the place of.
        options = os.environ.get("PGOPTIONS", "")
        super().__init__(url, read_parameters(url, "psycopg", known), options)
        self._query |= self.parameters.keepalive
        timeout = max(2, round(self.parameters.connect_timeout))
        self._query |= {"connect_timeout": str(timeout), "client_encoding": "UTF8"}

    async def _connect(self, dsn: str) -> Any:
        return await self._driver.AsyncConnection.connect(
            dsn, autocommit=True, prepare_threshold=5 if self.parameters.prepared else None
        )


_CONNECTORS: Final[dict[str, Callable[[URL], _Connector]]] = {
    "asyncpg": _Asyncpg,
    "psycopg": _Psycopg,
}


def _imported(driver: str) -> Any:
    try:
        return importlib.import_module(driver)
    except ModuleNotFoundError as error:
        if error.name != driver:
            raise
        raise StorageUnavailable(
            f"PostgreSQL needs the driver {driver}: pip install 'operator-core[{_EXTRAS[driver]}]'"
        ) from None


def _takes_no_options(error: Exception) -> bool:
    """Whether it is a pooler that has refused `options`; PgBouncer and RDS Proxy say so in these words."""
    return re.search("startup parameter|command-line options", str(error)) is not None


def _dsn(url: URL, query: dict[str, Any]) -> str:
    """`url` in libpq's form."""
    hosts = hosts_of(url)
    query = dict(query)
    if hosts and not any(host.startswith(("/", "@")) for host in hosts):
        del query["host"]
        # Beside their hosts, as asyncpg reads a list of ports nowhere else.
        ports = query.pop("port", "").split(",")
        ports = ports * len(hosts) if len(ports) == 1 else ports
        netloc = ",".join(
            f"{host}:{port}" if port and ":" not in host.rpartition("]")[2] else host
            for host, port in zip_longest(hosts, ports, fillvalue="")
        )
    else:
        if hosts:
            query["host"] = ",".join(hosts)
        netloc = f"[{url.host}]" if ":" in (url.host or "") else url.host or ""
        netloc += f":{url.port}" if url.port else ""
    if len(hosts) > 1:
        # Of a primary and its standbys, the one that can write.
        query.setdefault("target_session_attrs", "read-write")
    who = quote(url.username or "", safe="")
    if url.password is not None:
        who += ":" + quote(str(url.password), safe="")
    at = "@" if who else ""
    database = quote(url.database or "", safe="")
    return f"postgresql://{who}{at}{netloc}/{database}?{urlencode(query, quote_via=quote)}"


# ------ on a connection


_OPTIONS: Final = {
    "keepalives": (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    **{
        name: (socket.IPPROTO_TCP, getattr(socket, option))
        for name, option in (
            ("keepalives_idle", "TCP_KEEPIDLE"),
            ("keepalives_interval", "TCP_KEEPINTVL"),
            ("keepalives_count", "TCP_KEEPCNT"),
            ("tcp_user_timeout", "TCP_USER_TIMEOUT"),
        )
        if hasattr(socket, option)
    },
}
"""libpq's parameters as options of a socket, as far as the system has them."""


def _socket_of(connection: Any) -> Any:
    """The socket of a connection of asyncpg's, which has no public name for it."""
    transport = getattr(connection, "_transport", None)
    return None if transport is None else transport.get_extra_info("socket")


def _keep_alive(connected: Any, wanted: dict[str, str]) -> None:
    if connected is None or connected.family == getattr(socket, "AF_UNIX", None):
        return
    for name, (level, option) in _OPTIONS.items():
        # As for libpq, 0 is the system's own; only `keepalives` is switched off by it.
        if wanted[name] != "0" or name == "keepalives":
            connected.setsockopt(level, option, int(wanted[name]))


def is_stale(driver_connection: Any) -> bool:
    """Whether the server has closed a connection that nobody uses, as far as the machine has heard of it.

    Costs no round trip: a closed connection has said so already (PostgreSQL ends its sessions when it
    stops or is killed, and after its timeouts). What it can't tell, a machine that vanished, the next
    statement finds out. A connection on which there is anything to read counts as closed: a server
    says its last words some time before it has gone, and has little else to say to a client that
    asks for nothing; another connection costs little.
    """
    return is_closed(driver_connection) or _is_readable(driver_connection)


def is_closed(driver_connection: Any) -> bool:
    """Whether the driver knows that the connection is gone."""
    if _reads_when_asked(driver_connection):
        return bool(driver_connection.closed)
    return bool(driver_connection.is_closed())


def ping(conn: Connection) -> None:
    """Asks the server for an answer, in a round trip, where `is_stale` does not tell all.

    asyncpg keeps to itself that it has read a server's last words, until the server has gone, too. Nobody
    can do again what the body of a transaction() does, so that begins with a connection that is there.
    """
    if not _reads_when_asked(conn.connection.driver_connection):
        _execute(conn.connection.dbapi_connection, "SELECT 1")


def _reads_when_asked(driver_connection: Any) -> bool:
    """Whether it is psycopg's; asyncpg reads as soon as there is something to read."""
    return hasattr(driver_connection, "pgconn")


async def is_lost(driver_connection: Any) -> bool:
    """As `is_stale` for one that is in a transaction, and is not given up for a notice."""
    if is_closed(driver_connection):
        return True
    if not _is_readable(driver_connection):
        return False
    if _reads_when_asked(driver_connection):
        return _last_words(driver_connection)
    for _ in range(_TURNS):
        await asyncio.sleep(0)
        if is_closed(driver_connection):
            return True
    return False


_TURNS: Final = 10
"""In how many turns a loop has read what a server said last, that it has gone, and has told asyncpg."""


def _last_words(connection: Any) -> bool:
    """Reads what there is for psycopg, which reads only when it is asked to."""
    last: list[str | None] = []

    def note(diagnosis: Any) -> None:
        last.append(diagnosis.severity_nonlocalized)

    connection.add_notice_handler(note)
    try:
        # First the server's words, then that it is gone.
        connection.pgconn.consume_input()
        connection.pgconn.is_busy()
        connection.pgconn.consume_input()
    except Exception:
        # Whatever it says, nothing can be read from it.
        return True
    finally:
        connection.remove_notice_handler(note)
    return bool(connection.closed) or bool({"FATAL", "PANIC"} & set(last))


def _is_readable(driver_connection: Any) -> bool:
    """Whether there is something from the server that the driver has not read."""
    if _reads_when_asked(driver_connection):
        descriptor = driver_connection.pgconn.socket
    else:
        connected = _socket_of(driver_connection)
        descriptor = -1 if connected is None else connected.fileno()
    if descriptor < 0:
        return False
    if not hasattr(select, "poll"):
        return bool(select.select([descriptor], [], [], 0)[0])
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def in_transaction(driver_connection: Any) -> bool:
    """Whether the server has begun a transaction, whatever SQLAlchemy believes."""
    if is_closed(driver_connection):
        return False
    if _reads_when_asked(driver_connection):
        return driver_connection.pgconn.transaction_status != 0
    return bool(driver_connection.is_in_transaction())


def end_transaction(conn: Connection, how: str) -> None:
    """Ends what a listener has begun by a statement of its own: ``COMMIT`` or ``ROLLBACK``."""
    if in_transaction(conn.connection.driver_connection):
        _execute(conn.connection.dbapi_connection, how)


def _execute(connection: Any, sql: str) -> None:
    """By the driver itself, in a greenlet: SQLAlchemy's way would tell listeners, and may begin a transaction."""

    async def execute(driver_connection: Any) -> None:
        await driver_connection.execute(sql)

    connection.run_async(execute)


def hold_isolation(conn: Connection, level: IsolationLevel) -> None:
    """Puts a connection, just taken from its pool, at `level`, whatever a listener has done to it.

    Listeners on SQLAlchemy's classes hear of the ledger's connections too, and some switch autocommit off or
    begin by themselves, as the recipe for SQLite does.
    """
    if conn.in_transaction():
        conn.rollback()
    end_transaction(conn, "ROLLBACK")
    connection: Any = conn.connection.dbapi_connection
    conn.dialect.set_isolation_level(connection, level)
