"""Checks that a ledger's history is one that its triggers write, and that it matches the rows.

Events of adopted rows have no version; that is not a problem.
"""

from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Text,
    and_,
    case,
    cast,
    exists,
    func,
    literal,
    or_,
    select,
    true,
    union_all,
)

from operator_core.actions.lifecycle import TRANSITIONS
from operator_core.actions.types import ActionStatus, EventType
from operator_core.cli.findings import Check, Verdict
from operator_core.db.sql.tables import EVENTS, HALTS, LIMITS, PROPOSALS, RECORDS, RESOLUTIONS

__all__ = ["HISTORY_CHECKS"]

_STEPS: Final = [f"{source}>{to}" for source, after in TRANSITIONS.items() for to in sorted(after)]

_OF_RECORDS: Final = (
    EventType.RECORD_STARTED.value,
    EventType.RECORD_FINISHED.value,
    EventType.OUTCOME_RESOLVED.value,
)
_OF_APPROVALS: Final = (
    EventType.APPROVAL_REQUIRED.value,
    EventType.APPROVED.value,
    EventType.REJECTED.value,
    EventType.APPROVAL_WITHDRAWN.value,
)
_OF_LEDGER: Final = (
    EventType.HALTED.value,
    EventType.RESUMED.value,
    EventType.RULE_ADDED.value,
    EventType.RULE_REVOKED.value,
    EventType.GRANT_ADDED.value,
    EventType.GRANT_REVOKED.value,
    EventType.LIMIT_SET.value,
    EventType.LIMIT_REMOVED.value,
)
"""The events that are about no proposal."""
_WITHOUT_STATUS: Final = (*_OF_RECORDS, *_OF_APPROVALS, *_OF_LEDGER)
_OF_RETRIES: Final = (EventType.RETRY_SCHEDULED.value, EventType.RETRY_CANCELLED.value)


_RESOLVED: Final = f"{ActionStatus.FAILED}>{ActionStatus.COMPLETED}"
"""The move that only the resolution of an unknown outcome makes."""


def _was_resolved(event: Any) -> Any:
    """1 if the event before this one, of the same proposal, says that an execution was done, else 0."""
    before = EVENTS.alias("before").c
    is_resolution = before.event_type == EventType.OUTCOME_RESOLVED.value
    return func.coalesce(
        select(case((and_(is_resolution, before.success.is_(true())), 1), else_=0))
        .where(before.proposal_id == event.proposal_id, before.id < event.id)
        .order_by(before.id.desc())
        .limit(1)
        .scalar_subquery(),
        0,
    )


def _bad_statuses(_: Connection) -> Any:
    last = (
        select(EVENTS.c.proposal_id, func.max(EVENTS.c.id).label("id"))
        .where(EVENTS.c.event_type.not_in(_WITHOUT_STATUS))
        .group_by(EVENTS.c.proposal_id)
        .subquery()
    )
    status, last_status = PROPOSALS.c.status, EVENTS.c.to_status
    problem = case(
        (EVENTS.c.id.is_(None), "no event"), else_=func.coalesce(last_status, "no status")
    )
    return (
        select(PROPOSALS.c.id, status, problem)
        .outerjoin_from(PROPOSALS, last, last.c.proposal_id == PROPOSALS.c.id)
        .outerjoin(EVENTS, EVENTS.c.id == last.c.id)
        .where(or_(EVENTS.c.id.is_(None), last_status.is_distinct_from(status)))
    )


def _impossible_events(_: Connection) -> Any:
    """Compares each event of a proposal with the event before it: it must continue from that event's status."""
    event = EVENTS.c
    window: dict[str, Any] = {"partition_by": event.proposal_id, "order_by": event.id}
    events = (
        select(
            *(
                event[name]
                for name in (
                    "id",
                    "proposal_id",
                    "event_type",
                    "from_status",
                    "to_status",
                    "version",
                    "record_id",
                    "success",
                    "worker",
                )
            ),
            func.row_number().over(**window).label("place"),
            func.lag(event.to_status).over(**window).label("status"),
            func.max(event.version).over(**window, rows=(None, -1)).label("last_version"),
        )
        .where(event.event_type.not_in(_WITHOUT_STATUS))
        .subquery()
        .c
    )
    created = events.event_type == EventType.PROPOSAL_CREATED.value
    step = events.from_status + ">" + events.to_status
    problem = case(
        (and_(events.place == 1, ~created), "comes before its proposal was created"),
        (and_(events.place > 1, created), "creates its proposal a second time"),
        (
            events.from_status.is_distinct_from(events.status),
            "does not go on from the status before it",
        ),
        (
            and_(
                events.event_type == EventType.STATUS_CHANGED.value,
                func.coalesce(step, "").not_in(_STEPS),
                ~and_(step == _RESOLVED, _was_resolved(events) == 1),
            ),
            "is not a move of the lifecycle",
        ),
        (
            and_(
                events.event_type.in_(_OF_RETRIES),
                events.from_status.is_distinct_from(events.to_status),
            ),
            "is about a retry and changes the status",
        ),
        (and_(created, events.version != 1), "creates its proposal with a version other than 1"),
        (
            and_(
                events.last_version.is_not(None),
                func.coalesce(events.version, 0) <= events.last_version,
            ),
            "has no version above that of the event before it",
        ),
        (
            or_(
                events.record_id.is_not(None),
                events.success.is_not(None),
                events.worker.is_not(None),
            ),
            "is about a proposal and names an execution",
        ),
    )
    judged = select(events.id, events.proposal_id, problem.label("problem")).subquery().c
    of_records = select(
        event.id,
        event.proposal_id,
        literal("is about an execution, but names none, or names a status or a version").label(
            "problem"
        ),
    ).where(
        event.event_type.in_(_OF_RECORDS),
        or_(
            event.record_id.is_(None),
            event.from_status.is_not(None),
            event.to_status.is_not(None),
            event.version.is_not(None),
        ),
    )
    too_new = (
        select(event.id, event.proposal_id, literal("has a version above that of its proposal"))
        .join(PROPOSALS, PROPOSALS.c.id == event.proposal_id)
        .where(event.version > PROPOSALS.c.version)
    )
    of_approvals = select(
        event.id,
        event.proposal_id,
        literal("is about an approval, and names an execution, a status or a version"),
    ).where(
        event.event_type.in_(_OF_APPROVALS),
        or_(
            event.record_id.is_not(None),
            event.success.is_not(None),
            event.worker.is_not(None),
            event.from_status.is_not(None),
            event.to_status.is_not(None),
            event.version.is_not(None),
        ),
    )
    of_ledger = select(
        event.id,
        event.proposal_id,
        literal("is about the whole ledger and a proposal, or about neither").label("problem"),
    ).where(event.event_type.in_(_OF_LEDGER) != event.proposal_id.is_(None))
    chain = select(judged.id, judged.proposal_id, judged.problem).where(judged.problem.is_not(None))
    wrong = union_all(chain, of_records, of_approvals, of_ledger, too_new).subquery()
    return select(*wrong.c)


def _bad_executions(_: Connection) -> Any:
    event, record = EVENTS.c, RECORDS.c
    is_start = event.event_type == EventType.RECORD_STARTED.value
    is_end = event.event_type == EventType.RECORD_FINISHED.value

    def when(condition: ColumnElement[bool], value: Any) -> ColumnElement[Any]:
        return case((condition, value))

    events = (
        select(
            event.record_id,
            func.count(when(is_start, 1)).label("starts"),
            func.count(when(is_end, 1)).label("ends"),
            func.min(when(is_start, event.id)).label("start"),
            func.min(when(is_end, event.id)).label("end"),
            func.max(when(is_end, cast(event.success, Integer))).label("success"),
            func.min(event.proposal_id).label("lowest"),
            func.max(event.proposal_id).label("highest"),
            func.min(event.worker).label("first_worker"),
            func.max(event.worker).label("last_worker"),
        )
        .where(event.record_id.is_not(None))
        .group_by(event.record_id)
        .subquery()
    )
    of = events.c
    starts, ends = func.coalesce(of.starts, 0), func.coalesce(of.ends, 0)
    ended = record.completed_at.is_not(None)
    problem = case(
        (starts == 0, "has no event of its start"),
        (starts > 1, "has more than one event of its start"),
        (and_(ended, ends == 0), "has ended and has no event of its end"),
        (and_(~ended, ends > 0), "has not ended and has an event of its end"),
        (ends > 1, "has more than one event of its end"),
        (of.end < of.start, "has the event of its end before that of its start"),
        (
            or_(of.lowest != record.proposal_id, of.highest != record.proposal_id),
            "has an event of another proposal",
        ),
        (
            and_(ended, of.success.is_distinct_from(cast(record.success, Integer))),
            "has another outcome than the event of its end",
        ),
        (
            # Events of adopted rows name no worker.
            and_(
                of.first_worker.is_not(None),
                or_(
                    of.first_worker.is_distinct_from(record.worker),
                    of.last_worker.is_distinct_from(record.worker),
                ),
            ),
            "has an event of another worker",
        ),
    )
    judged = (
        select(record.id, record.proposal_id, problem.label("problem"))
        .outerjoin_from(RECORDS, events, of.record_id == record.id)
        .subquery()
        .c
    )
    return select(judged.id, judged.proposal_id, judged.problem).where(judged.problem.is_not(None))


def _bad_resolutions(_: Connection) -> Any:
    event, record, of = EVENTS.c, RECORDS.c, RESOLUTIONS.c
    is_resolution = event.event_type == EventType.OUTCOME_RESOLVED.value
    problem = case(
        (record.id.is_(None), "has no record"),
        (record.outcome_unknown.is_not(true()), "is of a record whose outcome is known"),
        (record.proposal_id != of.proposal_id, "names another proposal than its record"),
        (event.id.is_(None), "has no event"),
        (
            or_(
                event.proposal_id != of.proposal_id,
                cast(event.success, Integer) != cast(of.succeeded, Integer),
                event.actor != of.resolved_by,
                event.reason != of.evidence,
            ),
            "says something else than its event",
        ),
    )
    judged = (
        select(of.record_id, problem.label("problem"))
        .outerjoin_from(RESOLUTIONS, RECORDS, record.id == of.record_id)
        .outerjoin(EVENTS, and_(is_resolution, event.record_id == of.record_id))
        .subquery()
        .c
    )
    without = select(event.record_id, literal("has an event, but there is none")).where(
        is_resolution, ~exists().where(of.record_id == event.record_id)
    )
    wrong = union_all(
        select(judged.record_id, judged.problem).where(judged.problem.is_not(None)), without
    ).subquery()
    return select(*wrong.c)


def _bad_ends(_: Connection) -> Any:
    """Compares the end code, the cause and the digest of each row with the details of its events.

    Events that are older than these columns have none.
    """
    event, row = EVENTS.c, PROPOSALS.c
    details = cast(event.details, Text)
    ended = event.to_status.in_((ActionStatus.CANCELLED.value, ActionStatus.FAILED.value))
    moved = event.event_type == EventType.STATUS_CHANGED.value
    last = (
        select(func.max(event.id).label("id")).where(moved).group_by(event.proposal_id).subquery()
    )
    expected = case(
        (row.end_code.is_(None), row.status_cause),
        (
            row.status_cause.is_(None),
            literal('{"end_code":"') + row.end_code + literal('"}'),
        ),
        else_=literal('{"end_code":"')
        + row.end_code
        + literal('",')
        + func.substr(row.status_cause, 2),
    )
    other_end = (
        select(
            row.id,
            literal("has another end code or cause than the event of its last move").label(
                "problem"
            ),
        )
        .join_from(EVENTS, last, last.c.id == event.id)
        .join(PROPOSALS, row.id == event.proposal_id)
        .where(details.is_not(None), details.is_distinct_from(expected))
    )
    without_code = select(
        event.proposal_id,
        literal("has an event of a move whose end code and status do not fit"),
    ).where(moved, details.is_not(None), details.like('{"end_code":%') != ended)
    other_digest = (
        select(row.id, literal("has another digest than the event of its creation"))
        .join_from(EVENTS, PROPOSALS, row.id == event.proposal_id)
        .where(
            event.event_type == EventType.PROPOSAL_CREATED.value,
            details.is_not(None),
            details.is_distinct_from(literal('{"digest":"') + row.content_digest + literal('"}')),
        )
    )
    of_status = select(row.id, literal("has an end code that its status does not have")).where(
        row.end_code.is_(None)
        == row.status.in_((ActionStatus.CANCELLED.value, ActionStatus.FAILED.value))
    )
    wrong = union_all(other_end, without_code, other_digest, of_status).subquery()
    return select(*wrong.c)


def _missing_events(_: Connection) -> Any:
    event = EVENTS.c
    versions = (
        select(
            event.proposal_id,
            func.min(event.version).label("first"),
            func.count(event.version).label("count"),
        )
        .where(event.version.is_not(None))
        .group_by(event.proposal_id)
        .subquery()
    )
    missing = PROPOSALS.c.version - versions.c.first + 1 - versions.c.count
    return (
        select(PROPOSALS.c.id, missing)
        .join(versions, versions.c.proposal_id == PROPOSALS.c.id)
        .where(missing > 0)
    )


def _bad_halts(_: Connection) -> Any:
    """Compares the numbers: each halt and each limit has an event of its beginning, and of its end if it has ended."""
    event, halt, limit = EVENTS.c, HALTS.c, LIMITS.c

    def counted(kind: EventType) -> Any:
        return (
            select(func.count())
            .select_from(EVENTS)
            .where(event.proposal_id.is_(None), event.event_type == kind.value)
            .scalar_subquery()
        )

    halts = select(func.count()).select_from(HALTS).scalar_subquery()
    resumed = select(func.count(halt.resumed_at)).scalar_subquery()
    limits = select(func.count()).select_from(LIMITS).scalar_subquery()
    removed = select(func.count(limit.removed_at)).scalar_subquery()
    both = union_all(
        select(
            literal("halted").label("kind"),
            counted(EventType.HALTED).label("events"),
            halts.label("rows"),
        ),
        select(literal("resumed"), counted(EventType.RESUMED), resumed),
        select(literal("limit_set"), counted(EventType.LIMIT_SET), limits),
        select(literal("limit_removed"), counted(EventType.LIMIT_REMOVED), removed),
    ).subquery()
    return select(both.c.kind, both.c.events, both.c.rows).where(both.c.events != both.c.rows)


HISTORY_CHECKS: Final = (
    Check(
        "statuses",
        "proposal {0} is {1}; its last event: {2}",
        _bad_statuses,
        "all match the end of the history",
    ),
    Check(
        "history",
        "event {0} of proposal {1} {2}",
        _impossible_events,
        "every event continues from the one before it, as the lifecycle allows",
    ),
    Check(
        "executions",
        "record {0} of proposal {1} {2}",
        _bad_executions,
        "all have the events of their start and end",
    ),
    Check(
        "resolutions",
        "the resolution of record {0} {1}",
        _bad_resolutions,
        "all are of unknown outcomes and have their events",
    ),
    Check(
        "ends",
        "proposal {0} {1}",
        _bad_ends,
        "every end code, cause and digest is that of the history",
    ),
    Check(
        "halts",
        "{1} events say {0}, and {2} halts or limits are",
        _bad_halts,
        "all have the events of their beginning and end",
    ),
    Check(
        "versions",
        "proposal {0}: {1} changes have no event: an event is lost, or another tool made an UPDATE without a move",
        _missing_events,
        "every change has its event",
        Verdict.WARNING,
    ),
)
"""The checks of the history against the rows, and of the history itself."""
