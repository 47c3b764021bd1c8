"""The pytest plugin, as a project that has the package installed sees it."""

import pytest

pytest_plugins = ["pytester"]

SUITE = """
    import pytest
    from operator_core.actions.types import ActionProposal

    pytestmark = pytest.mark.asyncio

    @pytest.mark.parametrize("run", range(3))
    async def test_each_has_a_ledger_of_its_own(action_db, run):
        created = await action_db.create_proposal(ActionProposal(action_name="x", reason="y"))
        assert created.id == 1
        assert len(await action_db.list_proposals()) == 1
"""


def test_the_fixture_is_there_without_any_import(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile(SUITE)
    result = pytester.runpytest_subprocess("-q", "-W", "error", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=3)
