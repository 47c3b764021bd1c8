"""PostgreSQL and PgBouncer instances of the tests' and benchmarks' own, made from installed programs."""

import atexit
import fcntl
import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

_PROGRAMS = ("initdb", "postgres", "psql", "pg_basebackup", "pg_dump", "pg_restore")
_STOP_SIGNALS = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "64MB",
    # In the folder, and so removed with it; a killed server's would stay in /dev/shm.
    "dynamic_shared_memory_type": "mmap",
    # A standby that is stopped for a while finds what it missed.
    "wal_keep_size": "128MB",
}

PREPARED = "OPERATOR_TEST_PREPARED"
"""Names a folder in which a cluster is made once, and copied for each server; without it each is made anew."""

_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}

# Below the ports that systems give to outgoing connections (Linux: 32768 up). In that range a client that keeps
# retrying while its server is down would sooner or later be given the server's own port, and talk to itself.
_PORTS = range(15433, 32768)


class NoServer(Exception):
    """The programs that a server is made from are not installed."""


class StartFailed(Exception):
    """A server ended, or hung, before it was ready; the message ends with its log."""


class CommandFailed(subprocess.CalledProcessError):
    """A command's exit status was not 0; the message holds what it wrote to stderr."""

    def __str__(self) -> str:
        return f"{super().__str__()}\n{self.stderr}"


class _Instance:
    """A process, its port and its folder, which go together at `close`, or else when Python exits."""

    port: int
    folder: Path
    log: Path

    def __init__(self) -> None:
        self.folder = _new_folder("operator-core-server-")
        self.log = self.folder / "log"
        self.port = 0
        self._process: subprocess.Popen[Any] | None = None
        _open[self] = os.getpid()

    def url(self, database: str = "postgres", *, user: str = "postgres") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def sql(self, statement: str, database: str = "postgres") -> str:
        """What psql prints for the statement: rows as lines, columns joined by `|`.

        Raises CommandFailed, a CalledProcessError, with the server's message.
        """
        arguments = ["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", self.url(database), "-c", statement]
        return _run(_bindir() / "psql", *arguments).strip()

    def close(self) -> None:
        """End the process and remove the folder; a second call does nothing."""
        if self not in _open:
            return
        self._end()
        shutil.rmtree(self.folder)
        del _open[self]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        raise NotImplementedError

    def _end(self) -> None:
        raise NotImplementedError

    def _start_on_free_port(self) -> None:
        while not self.running:
            self.port = _free_port()
            try:
                self.start()
            except StartFailed:
                if "already in use" not in self._log_tail():
                    raise
                self.log.write_bytes(b"")

    def _spawn(self, *command: str | Path, ready: Callable[[], bool]) -> None:
        """Run the server as a child of ours, so that it is reaped however it ends, and wait for `ready`."""
        if self.running:
            raise RuntimeError("the server is already running")
        with self.log.open("ab") as log:
            process: subprocess.Popen[Any] = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for the tests
                **_server_user(),
            )
        self._process = process
        try:
            _until(lambda: process.poll() is not None or ready(), f"{command[0]} to be ready")
        except TimeoutError as error:
            raise StartFailed(f"{error}\n{self._log_tail()}") from error
        if process.poll() is not None:
            raise StartFailed(f"{command[0]} exited with {process.returncode}\n{self._log_tail()}")

    def _log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]


class Server(_Instance):
    """A PostgreSQL instance on loopback, with the superuser `postgres` and no passwords."""

    @classmethod
    def make(cls, *, durable: bool = True, settings: Mapping[str, str] | None = None) -> Self:
        """A new cluster, started, with `settings` in its postgresql.conf.

        `durable=False` flushes nothing to disk, for suites that test no durability. Raises NoServer.
        """
        _bindir()
        server = cls()
        try:
            server._initialise(
                {**_SETTINGS, **({} if durable else _NOT_DURABLE), **(settings or {})}
            )
            server._start_on_free_port()
        except BaseException:
            server.close()
            raise
        return server

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def start(self) -> None:
        """Start, and return when connections are accepted, after recovery if there is any to do."""
        # The port is no setting in a file: a standby's files are copies of its primary's.
        command = [_bindir() / "postgres", "-D", self.data, "-p", str(self.port)]
        self._spawn(*command, ready=self._is_ready)

    def stop(self, mode: str = "fast") -> None:
        """Shut down as `pg_ctl stop -m` does, by "smart", "fast" or "immediate"; return when all processes ended."""
        if self._process is None:
            return
        self._process.send_signal(_STOP_SIGNALS[mode])
        self._process.wait(60)
        self._process = None

    def restart(self, mode: str = "fast") -> None:
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        """SIGKILL to every process at once, with no chance to tell anyone, and return when they are gone.

        What was written but not flushed survives, as the kernel lives on.
        """
        if self._process is None:
            return
        # A postmaster that is held still can neither start a process that we don't see, nor react to the others' end.
        self._process.send_signal(signal.SIGSTOP)
        pids = [pid for pid, (parent, _) in _processes().items() if parent == self._process.pid]
        for pid in [self._process.pid, *pids]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.wait(60)
        self._process = None
        _until(lambda: not alive(pids), "the killed processes to be gone")

    def standby(self) -> "Server":
        """A streaming copy that this server's commits wait for from here on: it is the synchronous standby.

        One at a time. Without it, commits here hang until it's back or synchronous_standby_names is reset.
        """
        standby = Server()
        try:
            source = f"host=127.0.0.1 port={self.port} user=postgres application_name=standby"
            options = ["-R", "-X", "stream", "-c", "fast", "--no-sync"]
            _run(_bindir() / "pg_basebackup", "-d", source, "-D", standby.data, *options)
            standby._start_on_free_port()
            self._await_standby("state = 'streaming'")
            # A server made with durable=False would otherwise commit without waiting.
            self.sql("ALTER SYSTEM SET synchronous_commit = 'on'")
            self.sql("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
            self.sql("SELECT pg_reload_conf()")
            self._await_standby("sync_state = 'sync'")
        except BaseException:
            standby.close()
            raise
        return standby

    def promote(self) -> None:
        """Make this standby a primary, and return when it takes writes."""
        if self.sql("SELECT pg_promote(wait => true, wait_seconds => 60)") != "t":
            raise TimeoutError(f"the standby was not promoted\n{self._log_tail()}")

    def dump(self, database: str) -> Path:
        """What pg_dump writes of a database, in a file of this server's folder."""
        file = self.folder / f"{database}.dump"
        _run(_bindir() / "pg_dump", "-Fc", "-d", self.url(database), "-f", file)
        return file

    def restore(self, dump: Path, database: str) -> None:
        """Make a database of a dump, which may be another server's."""
        self.sql(f"CREATE DATABASE {database} TEMPLATE template0")
        _run(_bindir() / "pg_restore", "--exit-on-error", "-d", self.url(database), dump)

    def _initialise(self, settings: Mapping[str, str]) -> None:
        if folder := os.environ.get(PREPARED):
            _run("cp", "-a", _prepared(Path(folder)), self.data)
        else:
            _make_cluster(self.data)
        with (self.data / "postgresql.conf").open("a") as conf:
            for name, value in settings.items():
                quoted = value.replace("\\", "\\\\").replace("'", "''")
                conf.write(f"{name} = '{quoted}'\n")

    def _await_standby(self, condition: str) -> None:
        query = f"SELECT count(*) FROM pg_stat_replication WHERE application_name = 'standby' AND {condition}"
        _until(lambda: self.sql(query) != "0", f"a standby with {condition}")

    def _pid_file(self) -> list[str]:
        try:
            return (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _is_ready(self) -> bool:
        # What pg_ctl -w reads. The first line tells a file that a killed server left from the one of this start.
        lines = self._pid_file()
        ours = self._process is not None and lines[:1] == [str(self._process.pid)]
        return ours and len(lines) > 7 and lines[7].strip() in ("ready", "standby")

    def _end(self) -> None:
        # Quicker than any shutdown, and sure to work on processes that a test has stopped.
        self.kill()
        # Only a killed server leaves the file; nothing but the next start would free the memory that it names.
        if len(lines := self._pid_file()) > 6 and (ipcrm := shutil.which("ipcrm")):
            subprocess.run([ipcrm, "-m", lines[6].split()[1]], capture_output=True, check=False)


class PgBouncer(_Instance):
    """PgBouncer in front of a server, for any of its databases and the user `postgres`.

    `sql("SHOW POOLS", "pgbouncer")` asks its console.
    """

    version: str
    _server_port: int
    _settings: dict[str, str]

    @classmethod
    def make(
        cls,
        server: Server,
        *,
        server_port: int | None = None,
        pool_mode: str = "transaction",
        default_pool_size: int = 4,
        settings: Mapping[str, str] | None = None,
    ) -> Self:
        """A pool, started, with `settings` in the [pgbouncer] section of its file; raises NoServer.

        `server_port`: what stands before the server, if anything does.
        """
        _program()
        bouncer = cls()
        try:
            version = re.search(r"\d+(\.\d+)+", _run(_program(), "--version"))
            bouncer.version = version[0] if version else ""
            bouncer._server_port = server_port or server.port
            bouncer._settings = {
                "pool_mode": pool_mode,
                "default_pool_size": str(default_pool_size),
                **(settings or {}),
            }
            bouncer._start_on_free_port()
        except BaseException:
            bouncer.close()
            raise
        return bouncer

    def start(self) -> None:
        users = self.folder / "users"
        users.write_text('"postgres" ""\n')
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": str(users),
            "admin_users": "postgres",
            **self._settings,
        }
        conf = self.folder / "pgbouncer.ini"
        lines = [f"{name} = {value}" for name, value in settings.items()]
        target = f"* = host=127.0.0.1 port={self._server_port}"
        conf.write_text("\n".join(["[databases]", target, "[pgbouncer]", *lines, ""]))
        # Not by a connection: a stranger on the same port would answer it.
        self.log.write_bytes(b"")
        self._spawn(_program(), conf, ready=lambda: "process up" in self.log.read_text())

    def _end(self) -> None:
        # It holds nothing worth a shutdown, and which signal means "at once" depends on its version.
        if self._process is not None:
            self._process.kill()
            self._process.wait(60)


def alive(pids: Iterable[int]) -> list[int]:
    """Those of the processes that still run; one that only waits for its parent to notice does not."""
    processes = _processes()
    return [pid for pid in pids if pid in processes and processes[pid][1] != "Z"]


_open: dict[_Instance, int] = {}
"""With the process that made each: a forked one inherits the table, not the servers."""


@atexit.register
def _close_all() -> None:
    for instance, owner in list(_open.items()):
        if owner == os.getpid():
            instance.close()


def _bindir() -> Path:
    candidates: list[Path] = []
    if initdb := shutil.which("initdb"):
        candidates.append(Path(initdb).resolve().parent)
    packaged = Path("/usr/lib/postgresql").glob("*/bin")
    candidates += sorted(packaged, key=lambda path: _number(path.parent.name), reverse=True)
    if config := shutil.which("pg_config"):
        found = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False)
        candidates.append(Path(found.stdout.strip()))
    for folder in candidates:
        if all((folder / program).is_file() for program in _PROGRAMS):
            return folder
    raise NoServer("no PostgreSQL binaries are installed")


def _make_cluster(data: Path) -> None:
    # The locale C is on every system, and sorts the same on each.
    options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
    _run(_bindir() / "initdb", "-D", data, *options)


def _prepared(folder: Path) -> Path:
    """The cluster that others are copied from, made by whoever needs it first."""
    cluster = folder / "cluster"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not cluster.exists():
            made = folder / "making"
            shutil.rmtree(made, ignore_errors=True)
            _make_cluster(made)
            made.rename(cluster)
    return cluster


@contextmanager
def prepared() -> Iterator[None]:
    """For this process and those that it starts, servers are copies of one cluster."""
    if PREPARED in os.environ:
        yield
        return
    folder = _new_folder("operator-core-cluster-")
    os.environ[PREPARED] = str(folder)
    try:
        yield
    finally:
        del os.environ[PREPARED]
        shutil.rmtree(folder)


def _new_folder(prefix: str) -> Path:
    """One in which a server can be made."""
    # Not pytest's tmp_path, whose parents only root can enter where the tests run as root, nor /tmp, which may be
    # memory, where fsync costs nothing.
    where = "/var/tmp" if os.access("/var/tmp", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=where))
    with suppress(NoServer):
        if user := _server_user():
            os.chown(folder, user["user"], user["group"])
    return folder


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _program() -> Path:
    # Debian's place is not on every user's PATH.
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if found is None:
        raise NoServer("PgBouncer is not installed")
    return Path(found)


def _server_user() -> dict[str, Any]:
    """For Popen: whom servers run as, since they refuse to run as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise NoServer("no user is there to run a server as, other than root")


def _environment() -> dict[str, str]:
    # PGHOST, PGOPTIONS and the like are the user's, for other servers; messages are read, and so in English.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {"LC_ALL": "C", "PGCLIENTENCODING": "UTF8"}


def _run(*command: str | Path) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        cwd="/",  # ours may be a folder that the server's user can't enter
        env=_environment(),
        check=False,
        **_server_user(),
    )
    if done.returncode:
        raise CommandFailed(done.returncode, done.args, done.stdout, done.stderr)
    return done.stdout


def _free_port() -> int:
    # Not the seeded generator: test runs side by side with one seed would want the same ports.
    for port in random.SystemRandom().sample(_PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise StartFailed("no free port on 127.0.0.1")


def _processes() -> dict[int, tuple[int, str]]:
    """Every process's parent and state, a letter."""
    found: dict[int, tuple[int, str]] = {}
    if Path("/proc/self/stat").exists():
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                # After the name, which is in parentheses and may hold any character.
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            except (FileNotFoundError, ProcessLookupError):
                continue
            found[int(folder.name)] = (int(parent), state)
    else:
        for line in _run("ps", "-A", "-o", "pid=,ppid=,stat=").splitlines():
            pid, parent, state = line.split()[:3]
            found[int(pid)] = (int(parent), state[0])
    return found


def _until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.01)
