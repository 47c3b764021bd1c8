"""Every code block in the README and the docs is run; links and the lifecycle's picture are true."""

import ast
import asyncio
import inspect
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from operator_core.actions import TRANSITIONS
from operator_core.db import ActionDB
from tests import warm
from tests.databases import query

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CHANGELOG.md"]
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# They set up everything from nothing, so .ci/run runs them, in a clean checkout.
RUN_BY_CI = {"make demo", "make test", "make lint", "make build"}
# Long, and run by whoever wants to know.
RUN_BY_HAND = {"make soak", "make bench", "make bench-peers"}


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    for match in BLOCK.finditer(page.read_text()):
        yield match.group(1), match.group(2)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where a page's commands find what a checkout has."""
    for name in ("alembic.ini", "migrations", "examples", "src"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("OPERATOR_DATABASE_URL", raising=False)
    return tmp_path


@pytest.fixture
def loop() -> Iterator[asyncio.Runner]:
    """One event loop for all blocks of a page, as for whoever tries them in ``python -m asyncio``."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def database(page: Path, place: Path, request: pytest.FixtureRequest) -> str | None:
    """The server's database that a page works on, if it does."""
    if page.name != "postgresql.md":
        return None
    url: str = request.getfixturevalue("postgres_url")
    request.getfixturevalue("monkeypatch").setenv("OPERATOR_DATABASE_URL", url)
    return url


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_on_a_page_runs_from_top_to_bottom(
    page: Path, place: Path, database: str | None, shared_data_copy: None, loop: asyncio.Runner
) -> None:
    run_blocks(page, place, database, loop)


def run_blocks(page: Path, place: Path, database: str | None, loop: asyncio.Runner) -> None:
    names: dict[str, object] = {"__name__": "docs"}
    for language, text in blocks(page):
        if language == "python":
            if re.search(r"^(async )?def test_", text, re.MULTILINE):
                _run_tests(text, place)
            else:
                _run_python(text, names, loop)
        elif language == "bash":
            for line in text.splitlines():
                if line.strip() and line not in RUN_BY_CI | RUN_BY_HAND:
                    done = _run_line(line)
                    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        elif language == "sql":
            assert database is not None, f"{page.name} has no database to run SQL on"
            query(database, text)
        else:
            assert language == "text", f"a block of {page.name} that nothing runs: {language!r}"


def _run_line(line: str) -> subprocess.CompletedProcess[str]:
    program, *arguments = shlex.split(line)
    if program in ("alembic", "operator-core") and ">" not in arguments:
        return warm.run(program, *arguments, timeout=100)
    return subprocess.run(["bash", "-euc", line], capture_output=True, text=True, check=False)


def _run_python(text: str, names: dict[str, object], loop: asyncio.Runner) -> None:
    code = compile(text, "docs", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, names)
    if inspect.iscoroutine(result):
        loop.run(result)


def _run_tests(text: str, place: Path) -> None:
    (place / "test_block.py").write_text(text)
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull,
            "--rootdir", str(place), "-o", "asyncio_default_fixture_loop_scope=function", "test_block.py",
        ],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTEST_ADDOPTS": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


@pytest.fixture
def shared_data_copy(place: Path) -> None:
    """A predecessor's database for the page on adoption, where there is one; a small one otherwise."""
    from tests.legacy import make_legacy

    make_legacy(place / "legacy.db")


def commands() -> set[str]:
    """Every line of shell on a page."""
    return {
        line
        for page in PAGES
        for language, text in blocks(page)
        if language == "bash"
        for line in text.splitlines()
    }


def not_run_by_ci(script: str) -> set[str]:
    """What this file leaves to CI, and `script` does not run."""
    lines = [line.strip() for line in script.splitlines()]
    return {command for command in RUN_BY_CI if command not in lines}


def test_what_is_left_to_ci_it_runs() -> None:
    assert not_run_by_ci((ROOT / ".ci/run").read_text()) == set()


def test_planted_a_script_that_leaves_something_out_is_caught() -> None:
    script = (ROOT / ".ci/run").read_text()
    for command in RUN_BY_CI:
        left_out = script.replace(f"\n{command}\n", f"\n# {command}\n")
        assert not_run_by_ci(left_out) == {command}
    assert not_run_by_ci("") == RUN_BY_CI


def test_what_pages_say_to_make_can_be_made_and_is_run_somewhere() -> None:
    made = {line for line in commands() if line.startswith("make")}
    # The README's first steps.
    assert {"make demo", "make test"} <= made <= RUN_BY_CI | RUN_BY_HAND
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {command.removeprefix("make ") for command in RUN_BY_CI | RUN_BY_HAND} <= set(targets)


def test_links_lead_somewhere() -> None:
    for page in [*PAGES, *(ROOT / "docs" / "integrations").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
            assert target.startswith("http") or (page.parent / target).exists(), (page.name, target)


SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("name", ["lifecycle", "approvals"])
def test_the_pictures_of_the_lifecycle_show_every_step_and_no_other(name: str) -> None:
    picture = ElementTree.parse(ROOT / f"docs/{name}.svg")
    drawn = {
        (path.get("data-from"), path.get("data-to"))
        for path in picture.iter(f"{SVG}path")
        if path.get("data-from")
    }
    assert drawn == {(before, after) for before, to in TRANSITIONS.items() for after in to}


def test_the_picture_of_a_decision_names_what_there_is() -> None:
    picture = ElementTree.parse(ROOT / "docs/decisions.svg")
    words = {text.text for text in picture.iter(f"{SVG}text")}
    verbs = {path.get("data-by") for path in picture.iter(f"{SVG}path")} - {None}
    assert {verb for verb in verbs if not hasattr(ActionDB, verb or "")} == set()
    ends = {
        path.get(key) for path in picture.iter(f"{SVG}path") for key in ("data-from", "data-to")
    }
    assert ends - words == {None}
    assert {verb for verb in verbs if verb != "claim"} <= words
