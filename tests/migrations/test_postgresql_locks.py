"""A deploy never hangs, and never goes on without its lock: it waits a stated while and then says so."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from time import monotonic

import pytest

from operator_core.actions import Busy, InvalidValue
from operator_core.db import migrate
from operator_core.db.migrate import deploy, postgresql
from tests.databases import Databases, connected, query
from tests.migrations.postgresql_tools import (
    DB,
    PLAIN_ROWS,
    alembic,
    alembic_here,
    ledger_at,
    real_alembic,
    snapshot,
    sql,
    version,
)

SOON = 8.0
"""Seconds within which a command has failed that waits half a second, with Alembic's start."""


@contextmanager
def idle_reader(url: str) -> Iterator[DB]:
    """A session that has read and not ended its transaction."""
    with connected(url) as connection, connection.transaction():
        connection.execute("SELECT count(*) FROM action_proposals")
        yield connection


def wait_for(url: str, lock: str, deploy: Future[None]) -> None:
    """Returns when `deploy` waits for a lock of that type."""
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = %s"
    while not query(url, waiting, lock)[0][0]:
        assert not deploy.done()


@pytest.fixture
def plain(postgres: Databases) -> str:
    """A ledger that is to be upgraded."""
    return ledger_at(postgres, "0001", PLAIN_ROWS)


def test_a_deploy_does_not_hang_behind_an_idle_reader(plain: str) -> None:
    before = snapshot(plain)
    with idle_reader(plain):
        start = monotonic()
        failed = alembic(plain, "upgrade", "head", x=["lock-timeout=0.5"], fails=True)
        assert monotonic() - start < SOON
        assert failed.stderr.splitlines()[-1] == (
            "operator_core.actions.errors.Busy: the ledger is busy (another migration, "
            "or a session that uses one of its tables); nothing was changed"
        )
        assert snapshot(plain) == before
    real_alembic(plain, "upgrade", "head", x=["lock-timeout=0.5"])
    assert version(plain) == [migrate.HEAD]


def test_who_comes_meanwhile_waits_no_longer_than_the_deploy(plain: str) -> None:
    """Behind a lock that is waited for, everybody waits; that is why a deploy gives up early."""
    with idle_reader(plain), ThreadPoolExecutor(1) as thread:
        deploy = thread.submit(migrate.upgrade, plain, "head", {"lock-timeout": "0.5"})
        wait_for(plain, "relation", deploy)
        assert query(plain, "SELECT count(*) FROM action_proposals") == [(3,)]
        with pytest.raises(Busy):
            deploy.result(SOON)


def test_a_downgrade_does_not_hang_either(postgres: Databases) -> None:
    url = ledger_at(postgres, "head")
    before = snapshot(url)
    with idle_reader(url), pytest.raises(Busy):
        alembic_here(url, "downgrade", "0001", x={"lock-timeout": "0.2"})
    assert snapshot(url) == before


def test_a_deploy_waits_for_a_reader_that_ends_in_time(plain: str) -> None:
    with ThreadPoolExecutor(1) as thread:
        with idle_reader(plain):
            deploy = thread.submit(migrate.upgrade, plain)
            wait_for(plain, "relation", deploy)
        deploy.result(SOON)
    assert version(plain) == [migrate.HEAD]


def test_a_deploy_that_waited_for_another_one_finds_it_done(plain: str) -> None:
    with ThreadPoolExecutor(2) as threads:
        with idle_reader(plain):
            first = threads.submit(migrate.upgrade, plain)
            wait_for(plain, "relation", first)
            second = threads.submit(migrate.upgrade, plain)
            wait_for(plain, "advisory", second)
        first.result(SOON)
        second.result(SOON)
    assert version(plain) == [migrate.HEAD]
    assert query(plain, "SELECT count(*) FROM action_events") == [(8,)]


def test_a_deploy_of_what_is_current_waits_for_no_table(postgres: Databases) -> None:
    url = ledger_at(postgres, "head")
    with idle_reader(url) as other:
        other.execute("LOCK TABLE action_proposals, action_events IN ACCESS EXCLUSIVE MODE")
        migrate.upgrade(url, options={"lock-timeout": "0.1"})


@pytest.mark.parametrize(
    "given", ["nonsense", "", "0", "-1", "nan", "inf", "1e9", "3601", "0x10", "1 s"]
)
def test_a_timeout_that_is_none_is_refused_by_name(server_ledger: str, given: str) -> None:
    with pytest.raises(InvalidValue, match="lock-timeout: must be a number of seconds above 0"):
        migrate.upgrade(server_ledger, options={"lock-timeout": given})


def test_alembic_says_so_too(plain: str) -> None:
    before = snapshot(plain)
    failed = alembic(plain, "upgrade", "head", x=["lock-timeout=nonsense"], fails=True)
    assert "InvalidValue: lock-timeout: must be a number of seconds" in failed.stderr
    assert snapshot(plain) == before


def test_a_timeout_below_a_millisecond_is_not_for_ever(plain: str) -> None:
    """PostgreSQL counts milliseconds, and 0 of them is no limit."""
    before = snapshot(plain)
    with ThreadPoolExecutor(1) as thread, idle_reader(plain):
        deploy = thread.submit(migrate.upgrade, plain, "head", {"lock-timeout": "0.0001"})
        with pytest.raises(Busy):
            deploy.result(SOON)
    assert snapshot(plain) == before


def test_another_migration_is_waited_for_a_stated_while(
    plain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deploy, "LOCK_TIMEOUT", 0.2)
    before = snapshot(plain)
    with connected(plain) as other:
        with other.transaction():
            other.execute("SELECT pg_advisory_xact_lock(%s)", (postgresql.LOCK_KEY,))
            for options in ({}, {"lock-timeout": "30"}):
                start = monotonic()
                with pytest.raises(Busy, match="another migration, or a session"):
                    migrate.upgrade(plain, options=options)
                assert monotonic() - start < SOON
            assert snapshot(plain) == before
        migrate.upgrade(plain)
    assert version(plain) == [migrate.HEAD]


def test_the_lock_ends_with_the_migration(plain: str) -> None:
    migrate.upgrade(plain)
    with connected(plain) as other:
        assert sql(other, f"SELECT pg_try_advisory_lock({postgresql.LOCK_KEY})") == [(True,)]
