"""Makes an engine from a PostgreSQL URL: the driver, several hosts, and the settings of each connection.

A URL has libpq's form (PostgreSQL manual, "Connection URIs"): ``postgresql://user@host/db?...``, with several
hosts and all of libpq's parameters, such as ``options=-csearch_path%3Dledger``. Both drivers read that form,
so they get the checked URL in it.
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

from sqlalchemy import Connection, Dialect, Engine, create_engine, event
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
from operator_core.db.run.blocking import finished
from operator_core.db.sql.urls import check_parts, hosts_of, parse_url

__all__ = [
    "end_transaction",
    "hold_isolation",
    "in_transaction",
    "is_closed",
    "is_lost",
    "is_stale",
    "make_engine",
    "make_sync_engine",
    "parse_url",
    "ping",
    "unpinned_settings",
]

DEFAULT_DRIVER: Final = "asyncpg"
"""The driver of ``postgresql://``; docs/performance.md shows how much faster it is."""

_EXTRAS: Final = {"asyncpg": "postgres", "psycopg": "psycopg"}


def make_engine(url: URL, *, pool_size: int, timeout: float) -> AsyncEngine:
    """An engine whose connections are in autocommit mode unless a unit of work needs a transaction.

    The pool has at most `pool_size` connections; waiting longer than `timeout` seconds for one raises an
    error. Raises `InvalidValue` for an unusable URL, and `StorageUnavailable` if the driver is not installed.
    """
    url = parse_url(url)
    driver = _driver_of(url) or DEFAULT_DRIVER
    if driver not in _EXTRAS:
        raise InvalidValue("url", f"must name one of the drivers {', '.join(_EXTRAS)}")
    connector = _CONNECTORS[driver](url)
    engine = create_async_engine(
        f"postgresql+{driver}://",
        async_creator=connector.connect,
        **_settings(pool_size, timeout),
    )
    _pin(engine.sync_engine, connector)
    return engine


def make_sync_engine(url: URL, *, pool_size: int, timeout: float) -> Engine:
    """As `make_engine`, for threads; the driver is psycopg, and a URL that names another one is unusable."""
    url = parse_url(url)
    if _driver_of(url) not in ("", "psycopg"):
        raise InvalidValue("url", "must name the driver psycopg: a synchronous ledger has no other")
    connector = _SyncPsycopg(url)
    engine = create_engine(
        "postgresql+psycopg://",
        creator=lambda: finished(connector.connect()),
        **_settings(pool_size, timeout),
    )
    _pin(engine, connector)
    return engine


def _driver_of(url: URL) -> str:
    return url.drivername.partition("+")[2]


def _settings(pool_size: int, timeout: float) -> dict[str, Any]:
    return {
        "isolation_level": "AUTOCOMMIT",
        "hide_parameters": True,
        "pool_size": pool_size,
        "max_overflow": 0,
        "pool_timeout": timeout,
        # Low load uses the same few connections, so that the server can time out the others.
        "pool_use_lifo": True,
    }


def _pin(engine: Engine, connector: "_Connector") -> None:
    pool = engine.pool

    def connected(connection: Any, _: object) -> None:
        # Runs after the listeners on every engine of the program, which may have changed any setting.
        others = bool(getattr(pool.dispatch.connect, "parent_listeners", True))
        connector.pin(engine.dialect, connection, again=others)

    event.listen(pool, "connect", connected)


class _Connector:
    """Opens connections to one URL, with the ledger's settings pinned."""

    def __init__(self, url: URL, parameters: Parameters, options: str = "") -> None:
        check_parts(url)
        self._url = url
        self._options = parameters.query.pop("options", options)
        self._query = parameters.query
        self.parameters = parameters
        # A connection service file may contain options, which these would replace.
        self._pinned = "service" not in self._query or bool(self._options)

    async def connect(self) -> Any:
        """Returns a connection of the driver."""
        if self._pinned:
            try:
                return await self._open({"options": startup_options(self._options)})
            except Exception as error:
                if self._options or not _takes_no_options(error):
                    raise
            self._pinned = False
        return await self._open({"options": self._options} if self._options else {})

    async def _open(self, options: dict[str, str]) -> Any:
        return await self._connect(_dsn(self._url, {**self._query, **options}))

    async def _connect(self, dsn: str) -> Any:
        raise NotImplementedError

    def pin(self, dialect: Dialect, connection: Any, *, again: bool) -> None:
        """Pins the settings that do not hold yet, in a greenlet; with `again`, also those of the startup options."""
        driver_connection = dialect.get_driver_connection(connection)
        wrong = ALL if again and self._pinned else reported_wrong(driver_connection)
        if wrong:
            dialect.set_isolation_level(connection, "AUTOCOMMIT")
            _execute(connection, pin_statement(wrong))


class _Asyncpg(_Connector):
    def __init__(self, url: URL) -> None:
        super().__init__(url, read_parameters(url, "asyncpg"))
        if not self.parameters.prepared:
            # asyncpg sends a statement and its arguments in two rounds. Between them PgBouncer may give
            # the server's connection to another client.
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
        # libpq's own variable, which the parameter would replace.
        options = os.environ.get("PGOPTIONS", "")
        super().__init__(url, read_parameters(url, "psycopg", known), options)
        self._query |= self.parameters.keepalive
        timeout = max(2, round(self.parameters.connect_timeout))
        self._query |= {"connect_timeout": str(timeout), "client_encoding": "UTF8"}

    async def _connect(self, dsn: str) -> Any:
        return await self._driver.AsyncConnection.connect(
            dsn, autocommit=True, prepare_threshold=5 if self.parameters.prepared else None
        )


class _SyncPsycopg(_Psycopg):
    async def _connect(self, dsn: str) -> Any:
        return self._driver.Connection.connect(
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
    """Whether a pooler has refused `options`; PgBouncer and RDS Proxy use these words."""
    return re.search("startup parameter|command-line options", str(error)) is not None


def _dsn(url: URL, query: dict[str, Any]) -> str:
    """`url` in libpq's form, with the parameters `query`."""
    hosts = hosts_of(url)
    query = dict(query)
    if hosts and not any(host.startswith(("/", "@")) for host in hosts):
        del query["host"]
        # Each port goes beside its host: asyncpg reads a list of ports nowhere else.
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
        # Among a primary and its standbys, selects the one that accepts writes.
        query.setdefault("target_session_attrs", "read-write")
    user = quote(url.username or "", safe="")
    if url.password is not None:
        user += ":" + quote(str(url.password), safe="")
    at = "@" if user else ""
    database = quote(url.database or "", safe="")
    return f"postgresql://{user}{at}{netloc}/{database}?{urlencode(query, quote_via=quote)}"


# From here on: functions on a connection.


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
"""libpq's parameters as socket options, as far as the system supports them."""


def _socket_of(connection: Any) -> Any:
    """The socket of an asyncpg connection, which has no public attribute for it."""
    transport = getattr(connection, "_transport", None)
    return None if transport is None else transport.get_extra_info("socket")


def _keep_alive(connected: Any, parameters: dict[str, str]) -> None:
    if connected is None or connected.family == getattr(socket, "AF_UNIX", None):
        return
    for name, (level, option) in _OPTIONS.items():
        # As in libpq, 0 means the system's default; only for `keepalives` it means off.
        if parameters[name] != "0" or name == "keepalives":
            connected.setsockopt(level, option, int(parameters[name]))


def is_stale(driver_connection: Any) -> bool:
    """Whether the server has closed an idle connection, as far as this machine knows.

    Costs no round trip: the close of a connection has already arrived (PostgreSQL ends its sessions when it
    stops or is killed, and after its timeouts). This can't detect a host that vanished; the next statement
    does. A connection with unread data counts as closed. A server sends its last message some time before it
    closes, and sends little else to an idle client; another connection costs little.
    """
    return is_closed(driver_connection) or _is_readable(driver_connection)


def is_closed(driver_connection: Any) -> bool:
    """Whether the driver knows that the connection is gone."""
    if _is_psycopg(driver_connection):
        return bool(driver_connection.closed)
    return bool(driver_connection.is_closed())


def ping(conn: Connection) -> None:
    """Checks the connection by a round trip if `is_stale` may miss a closed one.

    asyncpg does not report that it has read a server's last message until the server has closed the connection.
    The body of a transaction() can't be repeated, so it begins with a checked connection.
    """
    if not _is_psycopg(conn.connection.driver_connection):
        _execute(conn.connection.dbapi_connection, "SELECT 1")


def _is_psycopg(driver_connection: Any) -> bool:
    """Whether it is a psycopg connection, which reads only on request; asyncpg reads as soon as data arrives."""
    return hasattr(driver_connection, "pgconn")


async def is_lost(driver_connection: Any) -> bool:
    """Like `is_stale`, for a connection in a transaction, which does not count as closed after a notice."""
    if is_closed(driver_connection):
        return True
    if not _is_readable(driver_connection):
        return False
    if _is_psycopg(driver_connection):
        # psycopg reads only on request.
        return _has_last_message(driver_connection)
    for _ in range(_TURNS):
        await asyncio.sleep(0)
        if is_closed(driver_connection):
            return True
    return False


_TURNS: Final = 10
"""Event loop turns that suffice to read a server's last message and the close, and to notify asyncpg."""


def _has_last_message(connection: Any) -> bool:
    """Reads what has arrived for psycopg, which reads only on request; whether the connection is lost."""
    last: list[str | None] = []

    def note(diagnosis: Any) -> None:
        last.append(diagnosis.severity_nonlocalized)

    connection.add_notice_handler(note)
    try:
        # First the server's message, then the close.
        connection.pgconn.consume_input()
        connection.pgconn.is_busy()
        connection.pgconn.consume_input()
    except Exception:
        # After any error nothing can be read from the connection.
        return True
    finally:
        connection.remove_notice_handler(note)
    return bool(connection.closed) or bool({"FATAL", "PANIC"} & set(last))


def _is_readable(driver_connection: Any) -> bool:
    """Whether there is data from the server that the driver has not read."""
    if _is_psycopg(driver_connection):
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
    """Whether the server has begun a transaction, independent of SQLAlchemy's state."""
    if is_closed(driver_connection):
        return False
    if _is_psycopg(driver_connection):
        return driver_connection.pgconn.transaction_status != 0
    return bool(driver_connection.is_in_transaction())


def end_transaction(conn: Connection, how: str) -> None:
    """Ends a transaction that a listener began by its own statement; `how` is ``COMMIT`` or ``ROLLBACK``."""
    if in_transaction(conn.connection.driver_connection):
        _execute(conn.connection.dbapi_connection, how)


def _execute(connection: Any, sql: str) -> None:
    """Executes `sql` by the driver, without SQLAlchemy, which would call listeners and may begin a transaction.

    An asynchronous connection needs a greenlet for this.
    """
    if not hasattr(connection, "run_async"):
        connection.execute(sql)
        return

    async def execute(driver_connection: Any) -> None:
        await driver_connection.execute(sql)

    connection.run_async(execute)


def hold_isolation(conn: Connection, level: IsolationLevel) -> None:
    """Sets a connection that was just taken from its pool to `level`, whatever a listener has done to it.

    Listeners on SQLAlchemy's classes also get events of the ledger's connections. Some switch autocommit off or
    begin a transaction, as the recipe for SQLite does.
    """
    if conn.in_transaction():
        conn.rollback()
    end_transaction(conn, "ROLLBACK")
    connection: Any = conn.connection.dbapi_connection
    conn.dialect.set_isolation_level(connection, level)
