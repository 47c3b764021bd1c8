"""The servers that other tests stand on do what their names say."""

from collections.abc import Iterator

import pytest

from tests.servers import CommandFailed, NoServer, PgBouncer, Server, alive


@pytest.fixture
def server() -> Iterator[Server]:
    try:
        made = Server.make(settings={"event_source": "it's \\ quoted"})
    except NoServer:
        pytest.skip("needs PostgreSQL's server programs")
    with made:
        yield made


def pids(server: Server) -> list[int]:
    found = server.sql("SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    return [int(pid) for pid in found.split()]


def test_a_server_keeps_what_it_committed_until_it_is_closed(server: Server) -> None:
    server.sql("CREATE TABLE kept (id int)")
    for end in (lambda: server.stop("immediate"), server.stop, server.kill):
        server.sql("INSERT INTO kept VALUES (1)")
        before = pids(server)
        assert alive(before) == before
        end()
        assert not alive(before)
        server.start()
    assert server.sql("SELECT count(*) FROM kept") == "3"
    assert server.sql("SHOW event_source", "template1") == "it's \\ quoted"
    with pytest.raises(CommandFailed, match='relation "absent" does not exist'):
        server.sql("SELECT * FROM absent")

    before = pids(server)
    server.close()
    server.close()
    assert not alive(before)
    assert not server.folder.exists()


def test_a_promoted_standby_has_what_its_killed_primary_committed(server: Server) -> None:
    server.sql("CREATE TABLE kept (id int)")
    with server.standby() as standby:
        server.sql("INSERT INTO kept VALUES (1)")
        server.kill()
        with pytest.raises(CommandFailed, match="read-only transaction"):
            standby.sql("INSERT INTO kept VALUES (2)")
        standby.promote()
        standby.sql("INSERT INTO kept VALUES (2)")
        assert standby.sql("SELECT id FROM kept ORDER BY id") == "1\n2"


def test_a_restored_dump_has_what_its_server_committed(server: Server) -> None:
    server.sql("CREATE TABLE kept (id int)")
    server.sql("INSERT INTO kept VALUES (1)")
    dump = server.dump("postgres")
    server.sql("INSERT INTO kept VALUES (2)")
    server.restore(dump, "restored")
    assert server.sql("SELECT id FROM kept", "restored") == "1"


def test_pgbouncer_pools_the_connections_to_a_server(server: Server) -> None:
    try:
        bouncer = PgBouncer.make(server)
    except NoServer:
        pytest.skip("needs PgBouncer")
    with bouncer:
        backends = {bouncer.sql("SELECT pg_backend_pid()") for _ in range(3)}
        assert len(backends) == 1
        assert "|transaction" in bouncer.sql("SHOW POOLS", "pgbouncer")
    assert not bouncer.folder.exists()
