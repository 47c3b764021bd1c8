"""From a URL to an engine on PostgreSQL: drivers, several hosts, and the settings of each connection.

A URL is what libpq takes (PostgreSQL manual, "Connection URIs"): ``postgresql://user@host/db?...``,
with several hosts and every parameter of it, ``options=-csearch_path%3Dledger`` among them. Both drivers
read that form themselves, so it is handed on as it is.
"""

import importlib
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import quote, urlencode

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from operator_core.actions.errors import InvalidValue, StorageUnavailable

__all__ = ["is_stale", "make_engine", "parse_url"]

DEFAULT_DRIVER: Final = "asyncpg"
"""What ``postgresql://`` means; docs/performance.md says how much faster it is."""

CONNECT_TIMEOUT: Final = 5.0
"""Seconds for one host to answer, unless the URL's ``connect_timeout`` says otherwise."""

_EXTRAS: Final = {"asyncpg": "postgres", "psycopg": "psycopg"}

# libpq's form has them between the @ and the database; SQLAlchemy's in the query.
_SEVERAL_HOSTS: Final = re.compile(
    r"(?P<scheme>[\w+]+://)(?P<who>[^/?]*@)?(?P<hosts>[^@/?]*,[^/?]*)(?P<rest>.*)", re.DOTALL
)


def parse_url(text: str) -> URL:
    """`text` as a URL, with one host or several; raises `ArgumentError`."""
    several = _SEVERAL_HOSTS.fullmatch(text)
    try:
        if several is None:
            return make_url(text)
        rest = several["rest"]
        url = make_url(
            several["scheme"] + (several["who"] or "") + (rest if rest[:1] == "/" else f"/{rest}")
        )
        return url.update_query_dict({"host": tuple(several["hosts"].split(","))})
    except ValueError as error:
        # SQLAlchemy does not catch a port that is no number.
        raise ArgumentError(str(error)) from None


def make_engine(url: URL, *, pool_size: int, timeout: float) -> AsyncEngine:
    """An engine whose connections are in autocommit mode unless a unit of work asks for more.

    `pool_size` connections at the most; who waits longer than `timeout` seconds for one is told.
    Raises `InvalidValue` for a URL that can't be used, `StorageUnavailable` without the driver.
    """
    _, _, named = url.drivername.partition("+")
    driver = named or DEFAULT_DRIVER
    if driver not in _EXTRAS:
        raise InvalidValue("url", f"must name one of the drivers {', '.join(_EXTRAS)}")
    query = dict(url.query)
    prepared = _flag(query.pop("prepared_statements", "on"), "prepared_statements")
    connect = _CONNECTORS[driver](driver, url.set(query=query), prepared)
    return create_async_engine(
        f"postgresql+{driver}://",
        async_creator=connect,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=timeout,
        # The same few connections under little load, so that the others may age out on the server.
        pool_use_lifo=True,
    )


def _flag(value: str | tuple[str, ...], name: str) -> bool:
    if value not in ("on", "off"):
        raise InvalidValue(f"url?{name}", "must be on or off")
    return value == "on"


Connect = Callable[[], Awaitable[Any]]


def _asyncpg(driver: str, url: URL, prepared: bool) -> Connect:
    if not prepared:
        # Its protocol sends a statement and its arguments in two rounds, between which PgBouncer
        # may hand the server's connection to somebody else.
        raise InvalidValue(
            "url?prepared_statements", "can't be off with asyncpg: use postgresql+psycopg://"
        )
    asyncpg = _imported(driver)
    query = dict(url.query)
    timeout = _seconds(query.pop("connect_timeout", None))
    dsn = _dsn(url.set(query=query))

    async def connect() -> Any:
        return await asyncpg.connect(dsn, timeout=timeout)

    return connect


def _psycopg(driver: str, url: URL, prepared: bool) -> Connect:
    psycopg = _imported(driver)
    timeout = _seconds(url.query.get("connect_timeout"))
    conninfo = _dsn(url.update_query_dict({"connect_timeout": str(max(2, round(timeout)))}))

    async def connect() -> Any:
        return await psycopg.AsyncConnection.connect(
            conninfo, prepare_threshold=5 if prepared else None
        )

    return connect


_CONNECTORS: Final = {"asyncpg": _asyncpg, "psycopg": _psycopg}


def _imported(driver: str) -> Any:
    try:
        return importlib.import_module(driver)
    except ModuleNotFoundError as error:
        if error.name != driver:
            raise
        raise StorageUnavailable(
            f"PostgreSQL needs the driver {driver}: pip install 'operator-core[{_EXTRAS[driver]}]'"
        ) from None


def _seconds(value: object) -> float:
    if value is None:
        return CONNECT_TIMEOUT
    try:
        seconds = float(str(value))
    except ValueError:
        seconds = 0
    if not 0 < seconds <= 3600:
        raise InvalidValue("url?connect_timeout", "must be a number of seconds from 1 to 3600")
    return seconds


def _dsn(url: URL) -> str:
    """`url` in libpq's form."""
    query: dict[str, Any] = dict(url.query)
    hosts = query.get("host", ())
    hosts = (hosts,) if isinstance(hosts, str) else hosts
    if hosts and not any("/" in host for host in hosts):
        del query["host"]
        netloc = ",".join(hosts)
    else:
        hosts = ()
        netloc = f"[{url.host}]" if ":" in (url.host or "") else url.host or ""
        netloc += f":{url.port}" if url.port else ""
    if len(hosts) > 1:
        # Of a primary and its standbys, the one that can write.
        query.setdefault("target_session_attrs", "read-write")
    query.setdefault("application_name", "operator-core")
    who = quote(url.username or "", safe="")
    if url.password is not None:
        who += ":" + quote(str(url.password), safe="")
    at = "@" if who else ""
    database = quote(url.database or "", safe="")
    return (
        f"postgresql://{who}{at}{netloc}/{database}?{urlencode(query, doseq=True, quote_via=quote)}"
    )


def is_stale(driver_connection: Any) -> bool:
    """Whether the server has closed a connection meanwhile, as far as the machine has heard of it.

    Costs no round trip: a closed connection has said so already (PostgreSQL ends its sessions when it
    stops or is killed). What it can't tell, a machine that vanished, the next statement finds out.
    """
    if hasattr(driver_connection, "is_closed"):
        # asyncpg reads as soon as there is something to read.
        return bool(driver_connection.is_closed())
    try:
        # psycopg reads only when it is asked to: first the server's last words, then that it is gone.
        driver_connection.pgconn.consume_input()
        driver_connection.pgconn.consume_input()
    except Exception:
        return True
    return bool(driver_connection.closed)
