"""The list of mutants fits the tree, and planting one says what the tests make of it."""

from pathlib import Path

import pytest

from tests.mutants.everything import MUTANTS
from tests.mutants.mutant import ROOT, Broken, Mutant, Verdict, try_one

TEST = """
import time
import pytest
from toy import double

def test_twice():
    assert double(2) == 4

@pytest.mark.skip(reason="of no use")
def test_nothing():
    pass
"""

DOUBLE = Mutant(
    name="toy",
    file="src/toy.py",
    old="return 2 * number",
    new="return 3 * number",
    tests=("tests/test_toy.py::test_twice",),
    why="Twice is thrice.",
)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    for folder in ("src", "tests", "migrations"):
        (tmp_path / folder).mkdir()
    (tmp_path / "alembic.ini").touch()
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\nasyncio_mode = 'auto'\n")
    (tmp_path / "src" / "toy.py").write_text("def double(number):\n    return 2 * number\n")
    (tmp_path / "tests" / "test_toy.py").write_text(TEST)
    return tmp_path


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_mutant_fits_the_tree(mutant: Mutant) -> None:
    assert mutant.problem() is None
    assert mutant.tests
    for test in mutant.tests:
        file, _, name = test.partition("::")
        text = (ROOT / file).read_text()
        assert not name or f"def {name.partition('[')[0]}(" in text, f"{test} is not there"


def test_each_has_a_name_of_its_own() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 40


@pytest.mark.parametrize(
    ("new", "tests", "verdict"),
    [
        ("return 3 * number", "test_toy.py::test_twice", Verdict.CAUGHT),
        ("return number + number", "test_toy.py::test_twice", Verdict.SURVIVED),
        ("return 3 * number", "test_toy.py::test_nothing", Verdict.SURVIVED),
        ("return (", "test_toy.py::test_twice", Verdict.BROKEN),
        ("return 3 * number", "test_toy.py::test_that_is_not_there", Verdict.BROKEN),
    ],
)
def test_a_verdict_is_what_the_tests_say(toy: Path, new: str, tests: str, verdict: Verdict) -> None:
    result = try_one(DOUBLE._replace(new=new, tests=(f"tests/{tests}",)), toy, seconds=60)
    assert result.verdict is verdict, result.output
    assert "return 2 * number" in (toy / "src" / "toy.py").read_text()


def test_a_hang_is_caught(toy: Path) -> None:
    mutant = DOUBLE._replace(new="while True: pass")
    assert try_one(mutant, toy, seconds=3).verdict is Verdict.HUNG


@pytest.mark.parametrize("old", ["return 4 * number", "number"])
def test_a_text_that_does_not_stand_there_once_is_an_error(toy: Path, old: str) -> None:
    with pytest.raises(Broken, match=r"stands \d times"):
        try_one(DOUBLE._replace(old=old), toy, seconds=60)
