"""The example of an API: whatever a caller sends, only what it may say is taken, and what can't be kept is its error."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.service import make_app
from operator_core.actions import ActionProposal

GOOD: dict[str, Any] = {
    "action_name": "drain_store",
    "parameters": {"store": 5},
    "reason": "disk is dying",
}


@asynccontextmanager
async def running(ledger: Path) -> AsyncGenerator[httpx.AsyncClient]:
    """The service on a ledger, and a client of it; what the service does not catch is a 500."""
    app = make_app(str(ledger))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=transport, base_url="http://service", headers={"x-agent": "agent-7"}
        ) as client,
    ):
        yield client


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with running(tmp_path / "ledger.db") as client:
        yield client


async def post(service: httpx.AsyncClient, body: str | bytes, **headers: str) -> httpx.Response:
    return await service.post(
        "/proposals", content=body, headers={"content-type": "application/json", **headers}
    )


async def test_what_a_caller_may_say_is_written_and_who_it_is_comes_from_elsewhere(
    service: httpx.AsyncClient,
) -> None:
    answer = await post(service, json.dumps(GOOD))
    assert answer.status_code == 201
    written = ActionProposal.model_validate(answer.json())
    assert (written.id, written.status, written.proposed_by) == (1, "proposed", "agent-7")
    assert (written.agent_id, written.requester_id) == ("agent-7", None)
    assert (await service.get("/proposals/1")).json() == answer.json()
    assert (await service.get("/proposals/2")).status_code == 404
    schema = (await service.get("/openapi.json")).json()
    assert "parameters" in schema["components"]["schemas"]["ProposalRequest"]["properties"]


NOT_THE_CALLERS = sorted(
    set(ActionProposal.model_fields)
    - {"action_name", "action_type", "parameters", "reason", "ticket_id", "priority"}
    - {"scheduled_at", "expires_at", "max_retries", "retry_delay", "max_retry_delay"}
    - {
        "depends_on",
        "wait_on_failure",
        "exclusive_key",
        "run_id",
        "parent_id",
        "call_id",
        "traceparent",
    }
)


@pytest.mark.parametrize("field", NOT_THE_CALLERS)
async def test_what_a_caller_may_not_say_is_refused(service: httpx.AsyncClient, field: str) -> None:
    value = {"status": "validated", "id": 9, "proposed_by": "cto", "version": 7}.get(field)
    answer = await post(service, json.dumps({**GOOD, field: value}))
    assert answer.status_code == 422
    assert [each["path"] for each in answer.json()] == [f"body.{field}"]
    assert (await service.get("/proposals/1")).status_code == 404


HOSTILE = {
    "not a number": '{"action_name": "a", "reason": "r", "parameters": {"x": NaN}}',
    "infinite": '{"action_name": "a", "reason": "r", "parameters": {"x": 1e999}}',
    "surrogate": '{"action_name": "a", "reason": "r", "parameters": {"x": "\\ud800"}}',
    "surrogate key": '{"action_name": "a", "reason": "r", "parameters": {"\\ud800": 1}}',
    "surrogate field": '{"action_name": "a", "reason": "r", "\\ud800": 1}',
    "surrogate name": '{"action_name": "\\ud800", "reason": "r"}',
    "NUL": '{"action_name": "a\\u0000", "reason": "r"}',
    "deep": '{"action_name": "a", "reason": "r", "parameters": ' + '{"x":' * 80 + "1" + "}" * 81,
    "a list": "[]",
    "parameters are a list": '{"action_name": "a", "reason": "r", "parameters": []}',
    "no JSON": "{",
    "nothing": "",
    "large": json.dumps({**GOOD, "parameters": {"x": "y" * (1 << 20)}}),
    "a huge number": '{"action_name": "a", "reason": "r", "parameters": {"x": ' + "9" * 4400 + "}}",
    "a ticket that is not there": json.dumps({**GOOD, "ticket_id": 5}),
    "a proposal that is not there": json.dumps({**GOOD, "depends_on": [5]}),
    "blank": '{"action_name": " ", "reason": "r"}',
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
async def test_what_can_not_be_kept_is_the_callers_error(
    service: httpx.AsyncClient, body: str
) -> None:
    answer = await post(service, body)
    assert answer.status_code in (400, 422), answer.text
    assert (await service.get("/proposals/1")).status_code == 404


@pytest.mark.parametrize("name", ["ledger", "Migration", "raw  SQL", " "])
async def test_a_caller_with_a_name_of_the_ledgers_own_is_refused(
    service: httpx.AsyncClient, name: str
) -> None:
    assert (await post(service, json.dumps(GOOD), **{"x-agent": name})).status_code == 422


async def test_a_request_that_comes_twice_is_written_once(service: httpx.AsyncClient) -> None:
    first, again = [
        (
            await post(
                service, json.dumps({**GOOD, "reason": why}), **{"idempotency-key": "call-1"}
            )
        ).json()
        for why in ("disk is dying", "the disk dies")
    ]
    assert again == first
    other = json.dumps({**GOOD, "parameters": {"store": 6}})
    assert (await post(service, other, **{"idempotency-key": "call-1"})).status_code == 409


@settings(max_examples=200, deadline=None)
@given(
    body=st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(st.characters()),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from([*ActionProposal.model_fields]) | st.text(), inner, max_size=4
            )
        ),
        max_leaves=20,
    )
)
def test_no_body_is_the_services_error(tmp_path_factory: pytest.TempPathFactory, body: Any) -> None:
    async def answered() -> int:
        async with running(tmp_path_factory.mktemp("ledger") / "ledger.db") as service:
            return (await post(service, json.dumps(body))).status_code

    assert asyncio.run(answered()) < 500
