"""The verbs of execution records that are created by hand; `executions` creates and ends those of claims."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from operator_core.actions.errors import InvalidValue
from operator_core.actions.types import ActionRecord, StoredRecord
from operator_core.db.ledger import executions, records
from operator_core.db.sql.base import encode_json
from operator_core.db.sql.rows import Listing
from operator_core.db.sql.unit import SingleStatement
from operator_core.db.verbs import arguments
from operator_core.db.verbs.arguments import check
from operator_core.db.verbs.base import Verbs

__all__ = ["RecordVerbs", "prepare_result"]


class RecordVerbs(Verbs):
    """The verbs of records."""

    async def create_record(
        self, record: ActionRecord, *, actor: str | None = None
    ) -> StoredRecord:
        """Records the start of an execution, or a finished one, and returns the record with its id.

        The record has no lease, unlike one of `claim`. If its creator does not end it, only
        `recover_expired(older_than=...)` does.

        Raises `NotFound` for an unknown proposal, and `Conflict` for a start if the proposal has ended. Raises
        `InvalidValue` for a record that has an id, or that has a part of an outcome but no `success`.
        """
        check(arguments.instance_of(ActionRecord), record, "record")
        values = prepare_record(record, actor=self._who(actor), max_json_bytes=self._max_json_bytes)
        return await self._units.write(
            SingleStatement(lambda conn: records.create_record(conn, values))
        )

    async def get_record(self, record_id: int) -> StoredRecord | None:
        """Returns the record, or None for an unknown id; raises `CorruptRow` if another tool damaged the row."""
        known = check(arguments.ID, record_id, "record_id")
        return await self._units.read(lambda conn: records.get_record(conn, known))

    async def get_records_for_proposal(self, proposal_id: int) -> Listing[StoredRecord]:
        """Returns the records of a proposal, oldest first; the list is empty for an unknown proposal."""
        known = check(arguments.ID, proposal_id, "proposal_id")
        return await self._units.read(lambda conn: records.get_records_for_proposal(conn, known))

    async def update_record(
        self,
        record_id: int,
        success: bool,
        error_message: str | None = None,
        result_data: dict[str, Any] | BaseModel | None = None,
        *,
        actor: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Ends an execution with its final outcome.

        If the record has a lease, its proposal moves with it, as with `complete` and `fail`. The proposal of a record
        that was created by hand does not move; use `update_proposal_status`.

        Raises `NotFound` for an unknown record, and `Conflict` for a record that has already ended.
        """
        known = check(arguments.ID, record_id, "record_id")
        ending = executions.Ending(
            known,
            prepare_result(result_data, self._max_json_bytes),
            check(arguments.OPTIONAL_ERROR_MESSAGE, error_message, "error_message"),
        )
        manner = executions.Manner(
            check(arguments.FLAG, success, "success"),
            self._who(actor),
            check(arguments.REASON, reason, "reason"),
            leased=True,
        )
        if not await self._units.write(executions.end([ending], manner)):
            raise await self._units.read(lambda conn: executions.why_not_ended(conn, known))


def prepare_record(record: ActionRecord, *, actor: str, max_json_bytes: int) -> dict[str, Any]:
    """Returns the values of the row for a checked copy of `record`.

    Raises `InvalidValue`, also for a record that is in a ledger already, or that has a part of an outcome but no
    `success`.
    """
    record = ActionRecord.model_validate(record.__dict__)
    if record.id is not None:
        raise InvalidValue("id", "must be None: the ledger sets it")
    if record.lease_expires_at is not None or record.outcome_unknown:
        raise InvalidValue(
            "lease_expires_at", "and outcome_unknown can't be set here: the ledger sets them"
        )
    if record.worker is not None:
        check(arguments.ACTOR, record.worker, "worker")
    if record.success is None:
        for path in ("completed_at", "error_message", "result_data"):
            if getattr(record, path) is not None:
                raise InvalidValue("success", f"must be set together with {path}")
    return {
        "proposal_id": record.proposal_id,
        "started_at": record.started_at,
        "completed_at": record.completed_at,
        "success": record.success,
        "error_message": record.error_message,
        "result_data": _encode(record.result_data, max_json_bytes),
        "started_by": actor,
        "completed_by": None if record.success is None else actor,
        "worker": record.worker,
    }


def prepare_result(
    result_data: Mapping[str, Any] | BaseModel | None, max_json_bytes: int
) -> str | None:
    """Returns the JSON text of a result, or None; raises `InvalidValue`."""
    return _encode(check(arguments.JSON, result_data, "result_data"), max_json_bytes)


def _encode(checked: dict[str, Any] | None, max_json_bytes: int) -> str | None:
    return None if checked is None else encode_json(checked, "result_data", max_json_bytes)
