"""URLs of servers and paths of files: which are taken, which are refused and by which name, and what is shown of them."""

import os
import traceback
from pathlib import Path

import pytest
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import create_async_engine

from operator_core.actions import ActionError, InvalidValue, StorageUnavailable
from operator_core.db import ActionDB, migrate
from operator_core.db.sql.urls import masked, parse_url, target_from_text, without_secrets
from tests.databases import EMPTYING, query

DRIVERS = ("asyncpg", "psycopg")


def by(driver: str, url: str, *parameters: str) -> str:
    return f"postgresql+{driver}://" + url.partition("://")[2] + "?" + "&".join(parameters)


async def works(target: str | URL) -> None:
    async with ActionDB(target) as db:
        assert await db.list_proposals() == []


# ------ schemes


@pytest.mark.parametrize("scheme", ["postgres", "POSTGRES", "PostgreSQL", "postgres+psycopg"])
async def test_a_scheme_as_hosts_write_it(server_ledger: str, scheme: str) -> None:
    rest = server_ledger.partition("://")[2]
    await works(f"{scheme}://{rest}")
    await works(make_url(server_ledger).set(drivername=scheme))
    assert migrate.run_locked(f"{scheme}://{rest}", migrate.current_revision) == migrate.HEAD
    url = make_url(server_ledger).set(drivername=scheme)
    assert migrate.run_locked(url, migrate.current_revision) == migrate.HEAD


# ------ parameters

TAKEN = [
    "application_name=x",
    "channel_binding=disable",
    "channel_binding=prefer",
    "client_encoding=utf8",
    "connect_timeout=3",
    "fallback_application_name=x",
    "gssencmode=disable",
    "gssencmode=prefer",
    "keepalives=0",
    "keepalives=1",
    "keepalives_count=5",
    "keepalives_idle=30",
    "keepalives_interval=10",
    "load_balance_hosts=disable",
    "options=-cwork_mem%3D5MB",
    "sslmode=prefer",
    "sslsni=1",
    "target_session_attrs=any",
    "target_session_attrs=read-write",
    "tcp_user_timeout=10000",
]


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("parameter", TAKEN)
async def test_what_libpq_has_is_taken_from_both_drivers(
    server_ledger: str, driver: str, parameter: str
) -> None:
    await works(by(driver, server_ledger, parameter))
    await works(make_url(by(driver, server_ledger, parameter)))


REFUSED = {
    "asyncpg": [
        "channel_binding=require",
        "gssencmode=require",
        "hostaddr=127.0.0.1",
        "load_balance_hosts=random",
        "max_protocol_version=3.0",
        "oauth_client_secret=hunter2",
        "require_auth=scram-sha-256",
        "requirepeer=postgres",
        "scram_client_key=hunter2",
        "sslcertmode=require",
        "sslcompression=1",
        "sslcrldir=/x",
        "sslkeylogfile=/x",
        "sslsni=0",
    ],
    "psycopg": [],
}

UNKNOWN = [
    "pgbouncer=true",
    "search_path=ops",
    "statement_timeout=5",
    "default_transaction_isolation=serializable",
    "prepared_statement_cache_size=0",
    "async_fallback=true",
    "replication=database",
    "sslmode=verify",
    "sslmode=REQUIRE",
    "target_session_attrs=primary,",
    "channel_binding=yes",
    "gssencmode=no",
    "keepalives=yes",
    "keepalives_idle=soon",
    "keepalives_idle=-1",
    "keepalives_count=128",
    "tcp_user_timeout=1e3",
    "load_balance_hosts=true",
    "client_encoding=latin1",
    "connect_timeout=nan",
    "prepared_statements=yes",
    "port=zero",
    "port=0",
    "port=65536",
    "port=5432,x",
    "application_name=x&application_name=y",
    "sslmode=prefer&sslmode=require",
    "application_name=a%00b",
    "ssl=require",
]


@pytest.mark.parametrize("driver", DRIVERS)
def test_others_are_refused_by_name_before_anything_is_opened(driver: str) -> None:
    for parameter in [*UNKNOWN, *REFUSED[driver]]:
        name = parameter.partition("=")[0]
        with pytest.raises(InvalidValue) as caught:
            ActionDB(by(driver, "postgresql://u:hunter2@h/d", parameter))
        assert caught.value.path == f"url?{name}", parameter
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_name_for_the_service_is_the_servers_too(server_ledger: str, driver: str) -> None:
    # Not autovacuum's, nor the tests' own.
    names = (
        "SELECT application_name FROM pg_stat_activity WHERE datname = current_database() "
        "AND pid != pg_backend_pid() AND backend_type = 'client backend' "
        f"AND application_name != '{EMPTYING}'"
    )
    for parameters, expected in (
        ([], "operator-core"),
        (["fallback_application_name=mine"], "mine"),
        (["application_name=given", "fallback_application_name=mine"], "given"),
    ):
        async with ActionDB(by(driver, server_ledger, *parameters)):
            assert query(server_ledger, names) == [(expected,)]


# ------ hosts


@pytest.mark.parametrize(
    "hosts",
    [
        "a:x,b:5432",
        "a:5432,b:",
        "a:0,b",
        "a,b:65536",
        "a:-1,b",
        "a: 5,b",
        "a,,b",
        "a, b",
        "[::1,b",
        "a:1:2,b",
    ],
)
def test_a_list_of_hosts_is_checked(hosts: str) -> None:
    for driver in DRIVERS:
        for url in (
            f"postgresql+{driver}://u@{hosts}/d",
            f"postgresql+{driver}://u@/d?host={hosts}",
        ):
            with pytest.raises(InvalidValue):
                ActionDB(url)


@pytest.mark.parametrize("port", ["x", "0", "65536", "99999999999999999999", "-1", "5432x"])
def test_the_port_of_one_host_is_too(port: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        ActionDB(f"postgresql://u:hunter2@h:{port}/d")
    assert "hunter2" not in str(caught.value)


async def test_several_hosts_in_every_form_are_taken(server_ledger: str) -> None:
    url = make_url(server_ledger)
    at, database = f"{url.host}:{url.port or 5432}", url.database
    for driver in DRIVERS:
        for form in (
            f"//{url.username}@127.0.0.1:1,{at}/{database}",
            f"//{url.username}@/{database}?host=127.0.0.1:1&host={at}",
            f"//{url.username}@/{database}?host=127.0.0.1:1,{at}",
            f"//{url.username}@/{database}?host=127.0.0.1,{url.host}&port=1,{url.port or 5432}",
        ):
            await works(f"postgresql+{driver}:{form}")


# ------ white space, and what is no file's name


@pytest.mark.parametrize("around", [" {}", "{} ", "{}\n", "\t{}", "{}\r\n", "\N{NO-BREAK SPACE}{}"])
@pytest.mark.parametrize(
    "text", ["postgresql://h/d", "sqlite:///x.db", "ledger.db", "./ledger", ":memory:"]
)
def test_white_space_around_is_refused(
    around: str, text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    given = around.format(text)
    with pytest.raises(InvalidValue, match="white space"):
        ActionDB(given)
    monkeypatch.setenv("OPERATOR_DATABASE_URL", given)
    with pytest.raises(InvalidValue, match="OPERATOR_DATABASE_URL: must have no white space"):
        ActionDB.from_env()
    if "://" not in text:
        with pytest.raises(InvalidValue, match="white space"):
            ActionDB(Path(given))
    with pytest.raises(InvalidValue):
        migrate.upgrade(given)
    assert list(tmp_path.iterdir()) == []


def test_white_space_in_a_url_object_is_refused() -> None:
    url = URL.create("postgresql", username="u", host="h", database="d")
    for odd in (
        url.set(host=" h"),
        url.set(host="h\n"),
        url.set(database="d "),
        url.set(username=" u"),
    ):
        with pytest.raises(InvalidValue):
            ActionDB(odd)


@pytest.mark.parametrize("path", ["\0x", "x\0", "\ud800x", "a\0b.db"])
def test_a_path_that_no_file_can_have_is_an_invalid_value(path: str) -> None:
    for target in (path, Path(path), URL.create("sqlite", database=path)):
        with pytest.raises(InvalidValue):
            ActionDB(target)


def test_a_nul_in_any_part_of_a_url_is_an_invalid_value() -> None:
    for driver in DRIVERS:
        for part in ("username", "password", "host", "database"):
            url = URL.create(f"postgresql+{driver}", "u", "p", "h", None, "d")
            with pytest.raises(InvalidValue):
                ActionDB(url.set(**{part: "a\0b"}))  # type: ignore[arg-type]


# ------ what was meant as a URL, and is none

BARE = ["garbage", "postgresql", "localhost", "ledger", ".hidden", "postgresql:/h/d", "postgres:h", "sqlite:x.db",
        "host=db.example.com dbname=x", "service=mine"]  # fmt: skip


@pytest.mark.parametrize("text", BARE)
def test_a_bare_word_in_the_environment_is_no_ledger(
    text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPERATOR_DATABASE_URL", text)
    with pytest.raises(InvalidValue, match="OPERATOR_DATABASE_URL: is neither a URL"):
        ActionDB.from_env()
    with pytest.raises(InvalidValue, match="--url: is neither"):
        target_from_text(text, "--url")
    assert list(tmp_path.iterdir()) == []


async def test_one_that_names_a_file_is_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    # In a program, a word is a path.
    async with ActionDB("ledger"):
        pass
    for text in ("ledger", "./new", str(tmp_path / "newer"), "other.db", ":memory:"):
        monkeypatch.setenv("OPERATOR_DATABASE_URL", text)
        async with ActionDB.from_env():
            pass
    assert {each.name for each in tmp_path.glob("*[a-z]")} >= {"ledger", "new", "newer", "other.db"}
    os.mkdir("folder")
    with pytest.raises(InvalidValue):
        target_from_text("folder", "--url")


# ------ secrets

SECRET = "hunter2"


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u:{}@h/d",
        "postgresql://u:{}@h:5432,h2/d?sslmode=require",
        "postgres://u@h/d?password={}",
        "postgresql://u@h/d?sslpassword={}&sslmode=require",
        "postgresql+psycopg://u@h/d?oauth_client_secret={}",
        "postgresql+psycopg://u@h/d?scram_client_key={}&scram_server_key={}",
        "mysql://u:{}@h/d?api_token={}",
        "sqlite:///x.db?password={}",
        "postgresql://u:{}@h:port/d",
        "postgresql://u:{}@@h/d:/?",
        "host=h password={} dbname=d",
        "host=h password='{} more' sslpassword={}",
        " postgresql://u:{}@h/d",
        "postgresql://u:{}@h/d\n",
    ],
)
def test_no_secret_is_shown(text: str) -> None:
    text = text.replace("{}", SECRET)
    assert SECRET not in masked(text)
    assert SECRET not in without_secrets(f'invalid token in "{text}"')
    try:
        url = parse_url(text)
    except (ArgumentError, InvalidValue):
        pass
    else:
        assert SECRET not in masked(url)
    shown = ""
    try:
        shown = repr(ActionDB(text))
    except ActionError as error:
        shown = "".join(traceback.format_exception(error))
    assert SECRET not in shown


def test_what_is_no_secret_is_shown() -> None:
    text = "postgresql://u@h:5433/d?sslmode=require&sslcert=%2Fx"
    assert make_url(masked(text)) == make_url(text)
    assert masked("ledger.db") == "ledger.db"
    assert masked("postgresql://u:x@h/d?password=y") == "postgresql://u:***@h/d?password=***"


async def test_a_ledger_is_shown_with_its_place(tmp_path: Path, server_ledger: str) -> None:
    assert "ledger.db" in repr(ActionDB(tmp_path / "ledger.db"))
    assert "h/d" in repr(ActionDB(f"postgresql://u:{SECRET}@h/d"))
    assert SECRET not in repr(ActionDB(make_url(f"postgresql://u:{SECRET}@h/d?password={SECRET}")))
    engine = create_async_engine(f"postgresql+asyncpg://u:{SECRET}@h/d")
    assert SECRET not in repr(ActionDB(engine))
    assert "h/d" in repr(ActionDB(engine))


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(
    "parameter", ["", "password=hunter2", "sslpassword=hunter2&sslcert=/nowhere&sslmode=require"]
)
async def test_no_error_of_a_driver_quotes_one(driver: str, parameter: str) -> None:
    for place in ("127.0.0.1:1", "127.0.0.1:1,127.0.0.1:2", "no-such-host.invalid"):
        db = ActionDB(f"postgresql+{driver}://u:{SECRET}@{place}/d?{parameter}", busy_timeout=0)
        with pytest.raises(StorageUnavailable) as caught:
            await db.open()
        assert SECRET not in "".join(traceback.format_exception(caught.value))
