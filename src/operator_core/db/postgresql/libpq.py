"""The parameters of a PostgreSQL URL (PostgreSQL manual, 34.1.2): the driver applies each, or it is refused by name.

For psycopg, libpq reads them. asyncpg supports most of them, and would send the others to the server as settings.
Of the others, a parameter that asks for asyncpg's fixed behaviour is left out, and the rest are refused. Otherwise
a URL could require channel binding or a check of the host's name, and the connection would have neither.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple

from sqlalchemy.engine import URL

from operator_core.actions.errors import InvalidValue

__all__ = ["CONNECT_TIMEOUT", "KEEPALIVE", "Parameters", "read_parameters"]

CONNECT_TIMEOUT: Final = 5.0
"""Seconds that one host may take to answer, unless the URL has ``connect_timeout``."""

KEEPALIVE: Final = {
    "keepalives": "1",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
"""Defaults by which a connection notices a vanished server after a minute, unless the URL has other values.

Most systems' own defaults are two hours for a waiting connection, and a quarter of an hour for data that does not
arrive.
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
"""Values that asyncpg always follows and therefore has no parameter for."""

_LIBPQ: Final = _ASYNCPG | set(_AS_ASYNCPG_DOES) | {
    "hostaddr", "max_protocol_version", "min_protocol_version", "oauth_client_id",
    "oauth_client_secret", "oauth_issuer", "oauth_scope", "require_auth", "requirepeer",
    "scram_client_key", "scram_server_key", "sslcrldir", "sslkeylogfile",
}  # fmt: skip
"""The parameters of libpq 18, without `replication`, which makes a connection of another kind."""

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
    """The parameters of a URL, which follow its user, hosts and database."""

    connect_timeout: float
    keepalive: dict[str, str]
    prepared: bool
    query: dict[str, Any]
    """The other parameters, for the driver."""


def read_parameters(url: URL, driver: str, known: Collection[str] | None = None) -> Parameters:
    """The parameters of `url` for `driver`; `known` are the parameters of its libpq (asyncpg: None).

    Raises `InvalidValue` for a parameter that the driver does not support, or for an invalid value.
    """
    query: dict[str, Any] = {}
    for name, value in url.query.items():
        if name != "host":
            if not isinstance(value, str):
                raise InvalidValue(f"url?{name}", "occurs twice")
            if known is None and value in _AS_ASYNCPG_DOES.get(name, ()):
                continue
            _check_name(name, driver, known)
            _check_value(name, value)
        query[name] = value
    if query.pop("ssl", None):
        # libpq reads it this way, for compatibility with JDBC's URLs.
        query.setdefault("sslmode", "require")
    query.setdefault("application_name", query.pop("fallback_application_name", "operator-core"))
    query.pop("fallback_application_name", None)
    # Both drivers use UTF-8, and the connection requests it anyway.
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
            "is not a parameter of libpq (a server setting goes into options=-cNAME%3DVALUE)",
        )
    if known is None and name not in _ASYNCPG:
        raise InvalidValue(
            f"url?{name}",
            f"is not supported by {driver}, or not with this value: use postgresql+psycopg://",
        )
    if known is not None and name not in _OURS and name not in known:
        raise InvalidValue(f"url?{name}", "is unknown to the installed libpq")


def _check_value(name: str, value: str) -> None:
    problem = None
    if "\0" in value:
        problem = "must not contain NUL"
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
    """A parameter's name for a message; ``?`` if it is too long or can't be printed."""
    return name if len(name) <= 64 and name.isprintable() else "?"
