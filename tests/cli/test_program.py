"""The program as a whole: which ledger it takes, what it says when it can't, and what it needs."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from operator_core import __version__
from operator_core.db.migrate import URL_VARIABLE
from tests.cli.conftest import PROGRAM, Invoke, Program

CallsFile = Callable[..., Path]


def test_it_tells_its_version(installed_program: Program) -> None:
    told = installed_program("--version")
    assert (told.returncode, told.stdout, told.stderr) == (0, f"operator-core {__version__}\n", "")


@pytest.mark.parametrize("module", ["typer", "rich"])
def test_without_its_extra_it_says_what_to_install(module: str) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; from operator_core.cli import main; main()"
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr == (
        "operator-core's command line needs its extra: pip install 'operator-core[cli]'\n"
    )


def test_another_missing_module_is_not_blamed_on_the_extra() -> None:
    code = "import sys; sys.modules['pydantic'] = None; from operator_core.cli import main; main()"
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert "pip install" not in told.stderr
    assert "pydantic" in told.stderr


def test_the_ledger_is_the_one_of_the_options_or_the_environment_or_the_folder(
    invoke: Invoke, calls_file: CallsFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replayed(*options: str) -> set[str]:
        before = set(tmp_path.glob("*.db"))
        assert invoke("actions", "replay", file, *options).exit_code == 0
        return {path.name for path in set(tmp_path.glob("*.db")) - before}

    file = calls_file({"name": "x"})
    assert replayed() == {"ledger.db"}
    monkeypatch.setenv(URL_VARIABLE, "sqlite:///url.db")
    assert replayed() == {"url.db"}
    monkeypatch.setenv(URL_VARIABLE, "path.db")
    assert replayed() == {"path.db"}
    assert replayed("--db-path", "given.db") == {"given.db"}
    assert replayed("--url", "sqlite+aiosqlite:///given-url.db") == {"given-url.db"}
    monkeypatch.setenv(URL_VARIABLE, "")
    assert replayed() == set()


@pytest.mark.parametrize(
    "options",
    [
        ["--db-path", "x.db", "--url", "sqlite:///x.db"],
        ["--url", "x.db"],
        ["--url", "://"],
        ["--limit", "0"],
        ["--status", "lost"],
        ["--before", "-3"],
    ],
)
def test_contradictions_are_usage_errors(
    invoke: Invoke, tmp_path: Path, options: list[str]
) -> None:
    assert invoke("actions", "list", *options).exit_code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [("actions", "list"), ("db", "upgrade"), ("db", "check")])
def test_a_server_that_is_not_supported_is_told_without_the_password(
    invoke: Invoke, command: tuple[str, ...]
) -> None:
    told = invoke(*command, "--url", "postgresql://ops:secret@db.invalid/ledger")
    assert (told.exit_code, told.stdout) == (3, "")
    assert told.stderr.startswith("error: postgresql://ops:***@db.invalid/ledger: ")
    assert len(told.stderr.splitlines()) == 1


@pytest.mark.parametrize("origin", ["--url", "environment"])
@pytest.mark.parametrize("name", ["password", "sslpassword", "access_token", "client_secret"])
def test_no_secret_of_a_url_is_printed(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, origin: str, name: str
) -> None:
    url = f"postgresql://ops:hunter2@db.invalid/ledger?{name}=hunter3&connect_timeout=1"
    options = ["--url", url] if origin == "--url" else []
    if not options:
        monkeypatch.setenv(URL_VARIABLE, url)
    for command in (
        ("actions", "list"),
        ("actions", "stop", "--yes"),
        ("db", "upgrade"),
        ("db", "check"),
    ):
        told = invoke(*command, *options)
        assert told.exit_code in (1, 2, 3)
        assert "hunter" not in told.stdout + told.stderr
        assert "***" in told.stderr or "Usage" in told.stderr


@pytest.mark.parametrize("text", ["garbage", "postgresql:", "localhost", "ledger"])
def test_a_bare_word_in_the_environment_makes_no_ledger(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    for command in (("actions", "list"), ("actions", "replay", "-"), ("db", "upgrade")):
        monkeypatch.setenv(URL_VARIABLE, text)
        told = invoke(*command, input="")
        assert (told.exit_code, told.stdout) == (2, "")
        assert URL_VARIABLE in told.stderr
        monkeypatch.delenv(URL_VARIABLE)
        assert invoke(*command, "--url", text, input="").exit_code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["x.db", "./ledger", "there", ":memory:"])
def test_a_path_in_the_environment_is_one_by_its_looks_or_because_it_is_there(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / "there").touch()
    monkeypatch.setenv(URL_VARIABLE, text)
    assert invoke("db", "upgrade").exit_code == 0


@pytest.mark.parametrize(
    "text", [" x.db", "x.db ", "x.db\n", " sqlite:///x.db", "sqlite:///x.db\n", "\tsqlite:///x.db"]
)
def test_stray_white_space_is_refused(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    option = "--url" if "://" in text else "--db-path"
    assert invoke("db", "upgrade", option, text).exit_code == 2
    monkeypatch.setenv(URL_VARIABLE, text)
    assert invoke("db", "upgrade").exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_an_actor_that_the_ledger_refuses_is_one_line(
    installed_program: Program, calls_file: CallsFile
) -> None:
    file = calls_file({"name": "x"})
    told = installed_program("actions", "replay", file, "--db-path", "x.db", "--actor", " ")
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr.startswith("error: x.db: actor: must not be blank")
    assert len(told.stderr.splitlines()) == 1


def test_a_folder_is_no_ledger(invoke: Invoke, tmp_path: Path, calls_file: CallsFile) -> None:
    file = calls_file({"name": "x"})
    for command in (("actions", "list"), ("actions", "replay", file), ("db", "check")):
        told = invoke(*command, "--db-path", tmp_path)
        assert (told.exit_code, told.stderr) == (
            3,
            f"error: {tmp_path}: is a folder, not a ledger\n",
        )


def test_a_reader_that_leaves_early_is_no_traceback(
    program: Program, calls_file: CallsFile
) -> None:
    lines = [{"name": "x", "arguments": {"text": "y" * 4000}} for _ in range(100)]
    assert program("actions", "replay", calls_file(*lines), "--db-path", "x.db").returncode == 0
    with subprocess.Popen(
        [PROGRAM, "actions", "list", "--limit", "100", "--json", "--db-path", "x.db"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0


def test_letters_that_the_terminal_cant_show_are_escaped(
    installed_program: Program, calls_file: CallsFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    file = calls_file({"name": "café", "reason": "→ 漢"})
    assert installed_program("actions", "replay", file, "--db-path", "x.db").returncode == 0
    shown = installed_program("actions", "show", "1", "--db-path", "x.db")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert r"caf\xe9" in shown.stdout
