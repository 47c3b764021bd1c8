"""Parses and checks database URLs and paths before anything is opened, and masks their secrets."""

import os
import re
from typing import Any, Final, cast

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from operator_core.actions.errors import InvalidValue

__all__ = [
    "check_parts",
    "check_path",
    "hosts_of",
    "masked",
    "parse_url",
    "target_from_text",
    "without_secrets",
]

_MEMORY: Final = ":memory:"

# libpq has several hosts between the @ and the database, SQLAlchemy in the query.
_SEVERAL_HOSTS: Final = re.compile(
    r"(?P<scheme>[\w+]+://)(?P<who>[^/?]*@)?(?P<hosts>[^@/?]*,[^/?]*)(?P<rest>.*)", re.DOTALL
)

_HOST: Final = re.compile(r"(?P<name>\[[0-9A-Fa-f:.%\w]+\]|[^:\[\]@]*)(:(?P<port>.*))?", re.DOTALL)

# A URL without its slashes, or a DSN of libpq: neither is meant as the name of a file.
_NOT_A_PATH: Final = re.compile(
    r"(postgres(ql)?|sqlite)(\+\w+)?:(?!//)|\s*(host|hostaddr|dbname|user|password|service)\s*=",
    re.IGNORECASE,
)

_SECRET: Final = re.compile(r"pass(word|wd|phrase)|pwd|secret|token|apikey|_key$", re.IGNORECASE)
_SECRET_PAIR: Final = re.compile(
    r"(\b\w*(?:pass(?:word|wd|phrase)|pwd|secret|token|apikey|_key)\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&;'\"]+)",
    re.IGNORECASE,
)
_SECRET_PART: Final = re.compile(r"(\w://[^:/?#@\s]*):(\S*)@")
_MASK: Final = "***"


def parse_url(text: str | URL, name: str = "db_path") -> URL:
    """Returns the URL with the scheme that SQLAlchemy uses, and with one host or several.

    Raises `ArgumentError` for text that is not a URL, and `InvalidValue` for `name` if it has white space around it.
    """
    if isinstance(text, URL):
        url = text
        for part in (url.username, url.host, url.database):
            check_trimmed(part or "", name)
    else:
        url = _read(check_trimmed(text, name))
    backend, plus, driver = url.drivername.lower().partition("+")
    # libpq accepts both schemes, and database hosting services use both.
    backend = "postgresql" if backend == "postgres" else backend
    return url.set(drivername=backend + plus + driver)


def _read(text: str) -> URL:
    several = _SEVERAL_HOSTS.fullmatch(text)
    try:
        if several is None:
            return make_url(text)
        rest = several["rest"]
        url = make_url(
            several["scheme"] + (several["who"] or "") + (rest if rest[:1] == "/" else f"/{rest}")
        )
        return url.update_query_dict({"host": tuple(several["hosts"].split(","))})
    except ValueError:
        # SQLAlchemy does not catch a port that is not a number. The message may quote a password.
        raise ArgumentError("not a database URL") from None


def check_trimmed(text: str, name: str) -> str:
    """Returns `text`; raises `InvalidValue` if it has white space around it, as copied text often has."""
    if text != text.strip():
        raise InvalidValue(name, "must have no white space around it")
    return text


def check_path(path: Any, name: str = "db_path") -> str:
    """Returns `path` as text; raises `InvalidValue` if no file can have this name."""
    text = cast(object, os.fspath(path)) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str) or not text:
        raise InvalidValue(name, "must be a path, a URL, an AsyncEngine or an AsyncSession")
    check_trimmed(text, name)
    try:
        if b"\0" in os.fsencode(text):
            raise InvalidValue(name, "must have no NUL in it")
    except UnicodeEncodeError:
        raise InvalidValue(name, "has characters that a path can't contain") from None
    if _NOT_A_PATH.match(text):
        raise InvalidValue(name, "is neither a URL (its scheme ends with ://) nor a path")
    return text


def target_from_text(text: str, name: str) -> str | URL:
    """Returns the database of a typed or configured text: a URL, or the path of a SQLite file.

    `name` names the source of the text in errors. A bare word raises `InvalidValue` unless a file has that name: it
    is more likely a mistake than the name of a new ledger.
    """
    check_trimmed(text, name)
    if "://" in text:
        try:
            return parse_url(text, name)
        except ArgumentError:
            raise InvalidValue(name, "is not a database URL") from None
    path = check_path(text, name)
    separators = [os.sep, *filter(None, [os.altsep])]
    bare = not os.path.splitext(path)[1] and not any(each in path for each in separators)
    if path != _MEMORY and bare and not os.path.isfile(path):
        raise InvalidValue(
            name, "is neither a URL nor the path of a file: write ./NAME if that is its name"
        )
    return path


def hosts_of(url: URL) -> list[str]:
    """The hosts in the query of a PostgreSQL URL, unchanged and with their ports."""
    return [host for each in _values(url, "host") for host in each.split(",")]


def _values(url: URL, name: str) -> tuple[str, ...]:
    value = url.query.get(name, ())
    return (value,) if isinstance(value, str) else value


def check_parts(url: URL) -> None:
    """Raises `InvalidValue` for an invalid part of a PostgreSQL URL.

    Invalid are a host with white space, a port that is not a number from 1 to 65535, and a NUL anywhere.
    """
    if any("\0" in (part or "") for part in (url.username, url.password, url.host, url.database)):
        raise InvalidValue("db_path", "must have no NUL in it")
    for host in hosts_of(url):
        # The path of a folder with the server's socket contains no port.
        if not host.startswith(("/", "@")):
            _check_host(host)
    if re.search(r"\s", url.host or ""):
        raise InvalidValue("db_path", "names an invalid host")
    if url.port is not None:
        _check_port(str(url.port))
    for port in ",".join(_values(url, "port")).split(","):
        if port:
            _check_port(port, "url?port")


def _check_host(host: str) -> None:
    found = _HOST.fullmatch(host)
    if found is None or not found["name"] or re.search(r"\s", host):
        raise InvalidValue("db_path", "names an invalid host")
    if found["port"] is not None:
        _check_port(found["port"])


def _check_port(port: str, name: str = "db_path") -> None:
    if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise InvalidValue(name, "must have ports from 1 to 65535")


def masked(place: Any) -> str:
    """Returns `place`, a URL or the text of a user, with its secrets masked."""
    if isinstance(place, str) and "://" in place:
        try:
            place = parse_url(place.strip())
        except (ArgumentError, InvalidValue):
            return without_secrets(place)
    if not isinstance(place, URL):
        return without_secrets(str(place))
    secret = {name: _MASK for name in place.query if _SECRET.search(name)}
    shown = place.update_query_dict(secret).render_as_string(hide_password=True)
    return shown.replace("%2A%2A%2A", _MASK)


def without_secrets(text: str) -> str:
    """Returns `text`, such as a driver's message, with the secrets of quoted URLs and DSNs masked."""
    return _SECRET_PAIR.sub(rf"\1{_MASK}", _SECRET_PART.sub(rf"\1:{_MASK}@", text))
