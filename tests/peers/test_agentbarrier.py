"""agentbarrier's conformance suite passes over the facade and the gate, in both approval profiles."""

from pathlib import Path

import pytest
from agentbarrier import RunnerOptions, SuiteRunner
from agentbarrier.models import ApprovalBarrierProfile
from agentbarrier.scenarios import DEFAULT_SCENARIOS

from tests.peers.agentbarrier_adapter import LedgerAdapter
from tests.peers.agentbarrier_gate import GateAdapter, TwoPhaseAdapter
from tests.peers.agentbarrier_runs import Adapter


@pytest.mark.parametrize("backend", ["file", "postgresql"], indirect=True)
@pytest.mark.parametrize("adapter", [LedgerAdapter, GateAdapter, TwoPhaseAdapter])
@pytest.mark.parametrize("profile", ApprovalBarrierProfile, ids=lambda profile: profile.value)
@pytest.mark.parametrize("scenario", [each.scenario_id for each in DEFAULT_SCENARIOS])
async def test_scenario(
    scenario: str,
    profile: ApprovalBarrierProfile,
    adapter: type[Adapter],
    place: str | Path,
) -> None:
    options = RunnerOptions(
        scenarios=(scenario,),
        strict_skips=True,
        approval_profile=profile,
        operation_timeout_seconds=60.0,
        tool_timeout_seconds=2.0,
    )
    result = await SuiteRunner(options).verify(adapter(place, profile))
    (found,) = result.results
    assert result.passed, (found.status, found.finding, found.detail)
