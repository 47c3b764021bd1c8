"""The parameters of a PostgreSQL URL (PostgreSQL manual, 34.1.2), each done by the driver or refused by name.

libpq reads them for psycopg. asyncpg has most of them; the others it would send to the server as settings. Of
these, those that ask for what asyncpg does anyway are left out, and those that it can't do are refused: nobody
believes then that a connection is bound to its channel, or its host's name checked, when it is not.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple

from sqlalchemy.engine import URL

from operator_core.actions.errors import InvalidValue

__all__ = ["CONNECT_TIMEOUT", "KEEPALIVE", "Parameters", "read_parameters"]

CONNECT_TIMEOUT: Final = 5.0
"""Seconds for one host to answer, unless the URL's ``connect_timeout`` says otherwise."""

KEEPALIVE: Final = {
    "keepalives": "1",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
"""A server that has vanished is noticed after a minute, unless the URL says otherwise; the defaults of
most systems are two hours for a connection that waits, and a quarter of one for what is not received.
"""

_OURS: Final = {"prepared_statements", "connect_timeout", "fallback_application_name", "ssl"}

_ASYNCPG: Final = _OURS | set(KEEPALIVE) | {
    "application_name", "client_encoding", "dbname", "gsslib", "host", "krbsrvname", "options",
    "passfile", "password", "port", "service", "sslcert", "sslcrl", "sslkey", "sslmode",
    "sslnegotiation", "sslpassword", "sslrootcert", "ssl_max_protocol_version",
    "ssl_min_protocol_version", "target_session_attrs", "user",
}  # fmt: skip

_AS_ASYNCPG_DOES: Final = {
    "channel_binding": ("disable", "prefer"),
    "gssdelegation": ("0",),
    "gssencmode": ("disable", "prefer"),
    "load_balance_hosts": ("disable",),
    "sslcertmode": ("allow",),
    "sslcompression": ("0",),
    "sslsni": ("1",),
}
"""What asyncpg has no parameter for because it never does otherwise."""

_LIBPQ: Final = _ASYNCPG | set(_AS_ASYNCPG_DOES) | {
    "hostaddr", "max_protocol_version", "min_protocol_version", "oauth_client_id",
    "oauth_client_secret", "oauth_issuer", "oauth_scope", "require_auth", "requirepeer",
    "scram_client_key", "scram_server_key", "sslcrldir", "sslkeylogfile",
}  # fmt: skip
"""Of libpq 18, without `replication`, which makes a connection of another kind."""

_CHOICES: Final[Mapping[str, Collection[str]]] = {
    "channel_binding": ("disable", "prefer", "require"),
    "client_encoding": ("utf8", "UTF8", "utf-8", "UTF-8"),
    "gssencmode": ("disable", "prefer", "require"),
    "keepalives": ("0", "1"),
    "load_balance_hosts": ("disable", "random"),
    "prepared_statements": ("on", "off"),
    "ssl": ("true",),
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "target_session_attrs": (
        "any", "read-write", "read-only", "primary", "standby", "prefer-standby",
    ),
}  # fmt: skip

_NUMBERS: Final = {
    "keepalives_idle": 32767,
    "keepalives_interval": 32767,
    "keepalives_count": 127,
    "tcp_user_timeout": 2**31 - 1,
}


class Parameters(NamedTuple):
    """What a URL asks for, apart from who, where and which database."""

    connect_timeout: float
    keepalive: dict[str, str]
    prepared: bool
    query: dict[str, Any]
    """The rest, for the driver."""


def read_parameters(url: URL, driver: str, known: Collection[str] | None = None) -> Parameters:
    """The parameters of `url` for `driver`, whose libpq has the `known` ones (asyncpg: None).

    Raises `InvalidValue` for a parameter that this driver has not, or a value that it can't have.
    """
    query: dict[str, Any] = {}
    for name, value in url.query.items():
        if name != "host":
            if not isinstance(value, str):
                raise InvalidValue(f"url?{name}", "stands there twice")
            if known is None and value in _AS_ASYNCPG_DOES.get(name, ()):
                continue
            _check_name(name, driver, known)
            _check_value(name, value)
        query[name] = value
    if query.pop("ssl", None):
        # As libpq reads it, for the sake of JDBC's URLs.
        query.setdefault("sslmode", "require")
    query.setdefault("application_name", query.pop("fallback_application_name", "operator-core"))
    query.pop("fallback_application_name", None)
    # Both drivers talk UTF-8, and it is asked for anyway.
    query.pop("client_encoding", None)
    return Parameters(
        _seconds(query.pop("connect_timeout", None)),
        {name: query.pop(name, default) for name, default in KEEPALIVE.items()},
        query.pop("prepared_statements", "on") == "on",
        query,
    )


def _check_name(name: str, driver: str, known: Collection[str] | None) -> None:
    if name not in _LIBPQ:
        raise InvalidValue(
            f"url?{_short(name)}",
            "is no parameter of libpq's (a setting of the server's goes into options=-cNAME%3DVALUE)",
        )
    if known is None and name not in _ASYNCPG:
        raise InvalidValue(
            f"url?{name}", f"can't be done, or not so, with {driver}: use postgresql+psycopg://"
        )
    if known is not None and name not in _OURS and name not in known:
        raise InvalidValue(f"url?{name}", "is unknown to the libpq that is installed")


def _check_value(name: str, value: str) -> None:
    problem = None
    if "\0" in value:
        problem = "must have no NUL in it"
    elif name in _CHOICES and value not in _CHOICES[name]:
        problem = f"must be {' or '.join(_CHOICES[name])}"
    elif name in _NUMBERS and not (
        re.fullmatch("[0-9]{1,10}", value) and int(value) <= _NUMBERS[name]
    ):
        problem = f"must be a number from 0 to {_NUMBERS[name]}"
    if problem is not None:
        raise InvalidValue(f"url?{name}", problem)


def _seconds(value: str | None) -> float:
    if value is None:
        return CONNECT_TIMEOUT
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0
    if not 0 < seconds <= 3600:
        raise InvalidValue("url?connect_timeout", "must be a number of seconds from 1 to 3600")
    return seconds


def _short(name: str) -> str:
    """A name that somebody else has chosen, as far as a message has room for it."""
    return name if len(name) <= 64 and name.isprintable() else "?"
