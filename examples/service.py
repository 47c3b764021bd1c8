"""An API in which agents propose actions and people read them; it needs FastAPI.

The body of a request is a `ProposalRequest`, which holds only the fields that a caller may set. The proposer and the agent
come from the authentication of the caller. A value that the ledger can't store is the caller's error (422), never the service's.

    uvicorn --factory examples.service:make_app
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from operator_core.actions import (
    ActionProposal,
    Busy,
    Conflict,
    InvalidValue,
    NotFound,
    ProposalRequest,
    StorageError,
)
from operator_core.actions.values import format_path
from operator_core.db import ActionDB


def authenticated(x_agent: Annotated[str, Header()]) -> str:
    """Returns the caller; a real service authenticates it here."""
    return x_agent


def ledger(request: Request) -> ActionDB:
    return request.app.state.db


IDENTITY = {"agent_id", "requester_id", "requester_type"}

Caller = Annotated[str, Depends(authenticated)]
Ledger = Annotated[ActionDB, Depends(ledger)]


async def propose(
    proposal: ProposalRequest,
    db: Ledger,
    caller: Caller,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> ActionProposal:
    # Who acts, and for whom, is known from the authentication. A body that says so could escape a halt.
    said = IDENTITY & proposal.model_fields_set
    if said:
        raise InvalidValue(f"body.{min(said)}", "is set by the service")
    proposal = proposal.model_copy(update={"agent_id": caller})
    return await db.create_proposal(
        proposal, proposed_by=caller, idempotency_key=idempotency_key, actor=caller
    )


async def look(id: int, db: Ledger) -> ActionProposal:
    proposal = await db.get_proposal(id)
    if proposal is None:
        raise HTTPException(404)
    return proposal


def answer(status: int, problems: list[tuple[str, str]]) -> JSONResponse:
    return JSONResponse([{"path": path, "problem": problem} for path, problem in problems], status)


async def not_valid(_: Request, error: RequestValidationError) -> JSONResponse:
    # FastAPI's default response contains the input, and JSON can't hold every input (NaN, half of a surrogate pair).
    return answer(422, [(format_path(each["loc"]), each["msg"]) for each in error.errors()])


async def not_kept(_: Request, error: InvalidValue) -> JSONResponse:
    return answer(422, list(error.problems))


async def not_there(_: Request, error: NotFound) -> JSONResponse:
    # The request names a ticket or a dependency that does not exist.
    return answer(422, [("", str(error))])


async def other_content(_: Request, error: Conflict) -> JSONResponse:
    return answer(409, [("", str(error))])


async def away(_: Request, error: Busy | StorageError) -> JSONResponse:
    return answer(503, [("", type(error).__name__)])


def make_app(target: str | None = None) -> FastAPI:
    """Creates the service for the ledger `target`; the default is the value of ``OPERATOR_DATABASE_URL``."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        opened = ActionDB(target, actor="gateway") if target else ActionDB.from_env(actor="gateway")
        async with opened as app.state.db:
            yield

    handlers: dict[Any, Any] = {
        RequestValidationError: not_valid,
        InvalidValue: not_kept,
        NotFound: not_there,
        Conflict: other_content,
        Busy: away,
        StorageError: away,
    }
    app = FastAPI(title="proposals", lifespan=lifespan, exception_handlers=handlers)
    app.post("/proposals", status_code=201)(propose)
    app.get("/proposals/{id}")(look)
    return app
