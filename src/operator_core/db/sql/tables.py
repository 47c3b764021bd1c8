"""The tables of the ledger: columns, constraints and indexes.

The triggers that enforce its guarantees (updated_at, immutability, lifecycle, history, append-only) are in the
revisions under ``migrations/versions``, because SQLAlchemy's metadata can't describe triggers.
"""

from typing import Any, Final, TypeVar, cast

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Sequence,
    Table,
    Text,
    column,
    false,
    table,
    text,
    true,
)
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.schema import SchemaItem
from sqlalchemy.types import Boolean, Integer

from operator_core.actions.types import ActionStatus, ActionType, EventType
from operator_core.db.sql.base import BIGINT, DOUBLE, Base, JSONText, UTCDateTime
from operator_core.db.sql.functions import current_transaction, ticket_now, written_now

__all__ = [
    "APPROVAL_OPEN",
    "DECISIONS",
    "DEPENDENCIES",
    "EVENTS",
    "GRANTS",
    "HALTS",
    "LIMITS",
    "NUMBERED",
    "PROPOSALS",
    "RECORDS",
    "REQUIREMENTS",
    "RESOLUTIONS",
    "RULES",
    "STARTS",
    "TABLES",
    "TICKETS",
    "VIEWS",
    "VOTES",
    "WORKFLOWS",
    "ActionDecisionRow",
    "ActionDependencyRow",
    "ActionEventRow",
    "ActionGrantRow",
    "ActionHaltRow",
    "ActionLimitRow",
    "ActionProposalRow",
    "ActionRecordRow",
    "ActionRequirementRow",
    "ActionRuleRow",
    "ActionStartRow",
    "OutcomeResolutionRow",
    "TicketRow",
    "WorkflowRow",
]

ConstraintT = TypeVar("ConstraintT", CheckConstraint, ForeignKeyConstraint)

# Without AUTOINCREMENT, SQLite reuses the id of the newest row after that row is deleted.
_AUTOINCREMENT = {"sqlite_autoincrement": True}

APPROVAL_OPEN: Final = (
    "approval IS NOT NULL AND status <> 'completed' AND status <> 'cancelled' "
    "AND (status <> 'failed' OR next_retry_at IS NOT NULL)"
)
"""The condition of the index of proposals about which people decide, or have decided."""

_EXCLUSIVE = "status = 'executing' AND exclusive_key IS NOT NULL"
_CALL_KNOWN = "run_id IS NOT NULL AND call_id IS NOT NULL"


def _on_postgresql(constraint: ConstraintT) -> ConstraintT:
    return _only_on("postgresql", constraint)


def _on_sqlite(constraint: ConstraintT) -> ConstraintT:
    return _only_on("sqlite", constraint)


def _only_on(dialect: str, constraint: ConstraintT) -> ConstraintT:
    # Alembic's comparison ignores ddl_if; env.py reads the info instead.
    constraint.info["only on"] = dialect
    constraint.ddl_if(dialect=dialect)
    return constraint


def _one_of(
    column: str, values: type[ActionStatus] | type[ActionType] | type[EventType]
) -> CheckConstraint:
    # SQLite would build a temporary table for an IN with more than two constants, for each row that a trigger writes.
    allowed = " OR ".join(f"{column} = '{value.value}'" for value in values)
    return _on_sqlite(CheckConstraint(allowed, name=column))


def _one_of_known(column: str) -> CheckConstraint:
    # It calls a function of the revisions, which PostgreSQL need not parse again for each statement.
    return _on_postgresql(CheckConstraint(f"action_ledger_is_{column}({column})", name=column))


def _partial(name: str, *columns: Any, where: str, on_postgresql: str | None = None) -> Index:
    return Index(
        name,
        *columns,
        sqlite_where=text(where),
        postgresql_where=text(on_postgresql or where),
    )


class TicketRow(Base):
    """The table of another service, which writes it with raw SQL and has its own text form of times."""

    __tablename__ = "tickets"
    __table_args__: tuple[SchemaItem | dict[str, bool], ...] = (
        Index(
            "idx_tickets_open_violation",
            "violation_key",
            sqlite_where=text("status != 'resolved'"),
            postgresql_where=text("status != 'resolved'"),
        ),
        Index("idx_tickets_violation_time", "violation_key", "resolved_at"),
        _AUTOINCREMENT,
    )

    id: Mapped[int] = mapped_column(BIGINT, Identity(), primary_key=True)
    violation_key: Mapped[str] = mapped_column(Text)
    invariant_name: Mapped[str] = mapped_column(Text)
    store_id: Mapped[str | None] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text, server_default="open")
    held: Mapped[bool] = mapped_column(Boolean, server_default=false())
    batch_key: Mapped[str | None] = mapped_column(Text)
    occurrence_count: Mapped[int] = mapped_column(Integer, server_default=text("1"))
    first_seen_at: Mapped[str] = mapped_column(Text)
    last_seen_at: Mapped[str] = mapped_column(Text)
    resolved_at: Mapped[str | None] = mapped_column(Text)
    message: Mapped[str] = mapped_column(Text)
    severity: Mapped[str] = mapped_column(Text, server_default="warning")
    diagnosis: Mapped[str | None] = mapped_column(Text)
    metric_snapshot: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[str] = mapped_column(Text, server_default=ticket_now())
    updated_at: Mapped[str] = mapped_column(Text, server_default=ticket_now())


class WorkflowRow(Base):
    """A workflow. Its status is not stored, but derived from its proposals."""

    __tablename__ = "workflows"
    __table_args__ = (
        # On SQLite a trigger checks this: a CHECK runs before the id is chosen.
        _on_postgresql(CheckConstraint("id > 0", name="id")),
        # Excludes times that Python can't represent, such as infinity and the year 294276.
        _on_postgresql(
            CheckConstraint(
                "least(created_at, updated_at) >= '1970-01-01 00:00:00+00'"
                " AND greatest(created_at, updated_at) < '9999-01-01 00:00:00+00'",
                name="times",
            )
        ),
        _AUTOINCREMENT,
    )

    id: Mapped[int] = mapped_column(BIGINT, Identity(always=True), primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    description: Mapped[str | None] = mapped_column(Text)
    ticket_id: Mapped[int | None] = mapped_column(BIGINT, ForeignKey("tickets.id"))
    created_at: Mapped[str] = mapped_column(UTCDateTime, server_default=written_now())
    updated_at: Mapped[str] = mapped_column(UTCDateTime, server_default=written_now())


class ActionProposalRow(Base):
    """A proposal. Its content never changes; its status moves only along the lifecycle."""

    __tablename__ = "action_proposals"
    __table_args__ = (
        _one_of("action_type", ActionType),
        _one_of_known("action_type"),
        _one_of("status", ActionStatus),
        _one_of_known("status"),
        # The id follows, so that the newest rows of each value are read in order, without sorting.
        Index("idx_action_proposals_status", "status", "id"),
        _partial("idx_action_proposals_ticket", "ticket_id", "id", where="ticket_id IS NOT NULL"),
        Index("idx_action_proposals_action_name", "action_name", "id"),
        Index("idx_action_proposals_proposed_by", "proposed_by", "id"),
        Index(
            "uq_action_proposals_idempotency_key",
            "idempotency_key",
            unique=True,
            sqlite_where=text("idempotency_key IS NOT NULL"),
            postgresql_where=text("idempotency_key IS NOT NULL"),
        ),
        # On SQLite a trigger checks this: an added column can't have a table constraint.
        _on_postgresql(ForeignKeyConstraint(["workflow_id"], ["workflows.id"])),
        _partial(
            "idx_action_proposals_workflow", "workflow_id", "id", where="workflow_id IS NOT NULL"
        ),
        _partial("idx_action_proposals_run", "run_id", "id", where="run_id IS NOT NULL"),
        Index(
            "uq_action_proposals_call",
            "run_id",
            "call_id",
            unique=True,
            sqlite_where=text(_CALL_KNOWN),
            postgresql_where=text(_CALL_KNOWN),
        ),
        Index(
            "uq_action_proposals_exclusive",
            "exclusive_key",
            unique=True,
            sqlite_where=text(_EXCLUSIVE),
            postgresql_where=text(_EXCLUSIVE.replace("status", "status || ''")),
        ),
        _partial("idx_action_proposals_parent", "parent_id", "id", where="parent_id IS NOT NULL"),
        _partial("idx_action_proposals_agent", "agent_id", "id", where="agent_id IS NOT NULL"),
        _partial(
            "idx_action_proposals_run_agent",
            "run_id",
            "agent_id",
            where="run_id IS NOT NULL AND agent_id IS NOT NULL",
        ),
        _partial(
            "idx_action_proposals_requester",
            "requester_id",
            "id",
            where="requester_id IS NOT NULL",
        ),
        _partial("idx_action_proposals_end_code", "end_code", "id", where="end_code IS NOT NULL"),
        # The order of claims.
        _partial(
            "idx_action_proposals_due",
            "status",
            text("priority DESC"),
            text("coalesce(next_retry_at, scheduled_at, created_at)"),
            "id",
            where="status = 'validated'",
            # Written so that the planner has no statistics for it: see `planner_hints`.
            on_postgresql="status || '' = 'validated'",
        ),
        # The next two are for the sweep of each claim: expired proposals, and due retries. The status comes first,
        # because SQLite without statistics would otherwise read the index of statuses, with all failed proposals.
        _partial(
            "idx_action_proposals_expires",
            "status",
            "expires_at",
            where="status IN ('proposed', 'validated') AND expires_at IS NOT NULL",
        ),
        _partial(
            "idx_action_proposals_retry",
            "status",
            "next_retry_at",
            where="status = 'failed' AND next_retry_at IS NOT NULL",
        ),
        # What waits for people, and what they have approved.
        _partial("idx_action_proposals_approval", "approval", "id", where=APPROVAL_OPEN),
        _partial(
            "idx_action_proposals_lapses", "status", "lapses_at", where="lapses_at IS NOT NULL"
        ),
        _partial(
            "idx_action_proposals_supersedes", "supersedes_id", where="supersedes_id IS NOT NULL"
        ),
        _on_postgresql(ForeignKeyConstraint(["supersedes_id"], ["action_proposals.id"])),
        _AUTOINCREMENT,
    )

    id: Mapped[int] = mapped_column(BIGINT, Identity(always=True), primary_key=True)
    ticket_id: Mapped[int | None] = mapped_column(BIGINT, ForeignKey("tickets.id"))
    action_name: Mapped[str] = mapped_column(Text)
    action_type: Mapped[str] = mapped_column(Text, server_default="subject")
    parameters: Mapped[str] = mapped_column(JSONText)
    reason: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text, server_default="proposed")
    proposed_at: Mapped[str] = mapped_column(UTCDateTime)
    proposed_by: Mapped[str] = mapped_column(Text, server_default="agent")
    validated_at: Mapped[str | None] = mapped_column(UTCDateTime)
    cancelled_at: Mapped[str | None] = mapped_column(UTCDateTime)
    created_at: Mapped[str] = mapped_column(UTCDateTime, server_default=written_now())
    updated_at: Mapped[str] = mapped_column(UTCDateTime, server_default=written_now())
    # The facade sets these for the trigger of the history: actor, reason and time of the last move.
    status_changed_by: Mapped[str | None] = mapped_column(Text)
    status_reason: Mapped[str | None] = mapped_column(Text)
    status_changed_at: Mapped[str | None] = mapped_column(UTCDateTime)
    # The caller's name for the proposal, by which a second attempt finds the first.
    idempotency_key: Mapped[str | None] = mapped_column(Text)
    priority: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    scheduled_at: Mapped[str | None] = mapped_column(UTCDateTime)
    expires_at: Mapped[str | None] = mapped_column(UTCDateTime)
    max_retries: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    retry_delay: Mapped[float] = mapped_column(DOUBLE, server_default=text("1"))
    max_retry_delay: Mapped[float] = mapped_column(DOUBLE, server_default=text("300"))
    retry_count: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    next_retry_at: Mapped[str | None] = mapped_column(UTCDateTime)
    last_error: Mapped[str | None] = mapped_column(Text)
    version: Mapped[int] = mapped_column(BIGINT, server_default=text("1"))
    workflow_id: Mapped[int | None] = mapped_column(BIGINT)
    depends_on: Mapped[str | None] = mapped_column(JSONText)
    wait_on_failure: Mapped[bool] = mapped_column(Boolean, server_default=false())
    requester_id: Mapped[str | None] = mapped_column(Text)
    requester_type: Mapped[str | None] = mapped_column(Text)
    agent_id: Mapped[str | None] = mapped_column(Text)
    run_id: Mapped[str | None] = mapped_column(Text)
    # Triggers do the work of a foreign key, which SQLite can't add, because they read the parent's run in any case.
    parent_id: Mapped[int | None] = mapped_column(BIGINT)
    call_id: Mapped[str | None] = mapped_column(Text)
    traceparent: Mapped[str | None] = mapped_column(Text)
    # How it has ended badly, and what caused its last move: see revision 0007.
    end_code: Mapped[str | None] = mapped_column(Text)
    status_cause: Mapped[str | None] = mapped_column(Text)
    content_digest: Mapped[str | None] = mapped_column(Text)
    # What it needs for itself alone while it is executing.
    exclusive_key: Mapped[str | None] = mapped_column(Text)
    # What its requirements and decisions come to, so that a claim needs no other table. The triggers keep them.
    approval: Mapped[str | None] = mapped_column(Text)
    lapses_at: Mapped[str | None] = mapped_column(UTCDateTime)
    # The normalised forms of identities that are more than printable ASCII: SQL can't compute them.
    identity_keys: Mapped[str | None] = mapped_column(JSONText)
    supersedes_id: Mapped[int | None] = mapped_column(BIGINT)


class ActionDependencyRow(Base):
    """One dependency from ``depends_on``. Triggers write it; the id that it depends on is always lower."""

    __tablename__ = "action_dependencies"
    __table_args__ = (
        CheckConstraint("depends_on_id < proposal_id", name="order"),
        Index("idx_action_dependencies_needed", "depends_on_id", "proposal_id"),
    )

    proposal_id: Mapped[int] = mapped_column(
        BIGINT, ForeignKey("action_proposals.id"), primary_key=True, autoincrement=False
    )
    depends_on_id: Mapped[int] = mapped_column(
        BIGINT, ForeignKey("action_proposals.id"), primary_key=True, autoincrement=False
    )


class ActionRecordRow(Base):
    """One execution of a proposal. Once it has an outcome it never changes."""

    __tablename__ = "action_records"
    __table_args__ = (
        Index("idx_action_records_proposal", "proposal_id", "id"),
        _partial(
            "idx_action_records_lease",
            "lease_expires_at",
            where="completed_at IS NULL AND lease_expires_at IS NOT NULL",
        ),
        # For those who look for what became of them.
        _partial(
            "idx_action_records_unknown",
            "id",
            where="outcome_unknown = 1",
            on_postgresql="outcome_unknown",
        ),
        # SQLite's BOOLEAN takes any number.
        CheckConstraint("success IN (0, 1)", name="success").ddl_if(dialect="sqlite"),
        _AUTOINCREMENT,
    )

    id: Mapped[int] = mapped_column(BIGINT, Identity(always=True), primary_key=True)
    proposal_id: Mapped[int] = mapped_column(BIGINT, ForeignKey("action_proposals.id"))
    started_at: Mapped[str | None] = mapped_column(UTCDateTime)
    completed_at: Mapped[str | None] = mapped_column(UTCDateTime)
    success: Mapped[bool | None] = mapped_column(Boolean)
    error_message: Mapped[str | None] = mapped_column(Text)
    result_data: Mapped[str | None] = mapped_column(JSONText)
    created_at: Mapped[str] = mapped_column(UTCDateTime, server_default=written_now())
    # The facade sets these for the trigger of the history: the actors of the start and of the end.
    started_by: Mapped[str | None] = mapped_column(Text)
    completed_by: Mapped[str | None] = mapped_column(Text)
    worker: Mapped[str | None] = mapped_column(Text)
    lease_expires_at: Mapped[str | None] = mapped_column(UTCDateTime)
    outcome_unknown: Mapped[bool] = mapped_column(Boolean, server_default=false())
    # When a heartbeat last told its worker of a halt.
    halt_seen_at: Mapped[str | None] = mapped_column(UTCDateTime)


# What the triggers on PostgreSQL read before they look for a halt: see revision 0005.
Sequence("action_halts_flag", minvalue=-(2**63), data_type=BIGINT, metadata=Base.metadata)


class ActionHaltRow(Base):
    """A halt or a freeze. It is resumed once and never edited."""

    __tablename__ = "action_halts"
    __table_args__ = (
        _partial("idx_action_halts_open", "id", where="resumed_at IS NULL"),
        _AUTOINCREMENT,
    )

    id: Mapped[int] = mapped_column(BIGINT, Identity(always=True), primary_key=True)
    mode: Mapped[str] = mapped_column(Text)
    action_name: Mapped[str | None] = mapped_column(Text)
    agent_id: Mapped[str | None] = mapped_column(Text)
    run_id: Mapped[str | None] = mapped_column(Text)
    halted_by: Mapped[str] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text)
    created_at: Mapped[str] = mapped_column(UTCDateTime, server_default=written_now())
    valid_from: Mapped[str | None] = mapped_column(UTCDateTime)
    valid_until: Mapped[str | None] = mapped_column(UTCDateTime)
    cancels: Mapped[bool] = mapped_column(Boolean, server_default=false())
    resumed_at: Mapped[str | None] = mapped_column(UTCDateTime)
    resumed_by: Mapped[str | None] = mapped_column(Text)
    resume_reason: Mapped[str | None] = mapped_column(Text)


# What the triggers on PostgreSQL read before they look for a limit: see revision 0008.
Sequence("action_governance_flag", minvalue=-(2**63), data_type=BIGINT, metadata=Base.metadata)


class ActionLimitRow(Base):
    """A limit. It is removed once and never edited."""

    __tablename__ = "action_limits"
    __table_args__ = (
        Index(
            "uq_action_limits_name",
            "name",
            unique=True,
            sqlite_where=text("removed_at IS NULL"),
            postgresql_where=text("removed_at IS NULL"),
        ),
        _AUTOINCREMENT,
    )

    id: Mapped[int] = mapped_column(BIGINT, Identity(always=True), primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    action_name: Mapped[str | None] = mapped_column(Text)
    agent_id: Mapped[str | None] = mapped_column(Text)
    window: Mapped[float] = mapped_column(DOUBLE)
    max_starts: Mapped[int | None] = mapped_column(BIGINT)
    sum_of: Mapped[str | None] = mapped_column(JSONText)
    max_sum: Mapped[int | None] = mapped_column(BIGINT)
    set_by: Mapped[str] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text)
    created_at: Mapped[str] = mapped_column(UTCDateTime, server_default=written_now())
    removed_at: Mapped[str | None] = mapped_column(UTCDateTime)
    removed_by: Mapped[str | None] = mapped_column(Text)
    remove_reason: Mapped[str | None] = mapped_column(Text)


class ActionStartRow(Base):
    """A start that counts under a limit. Triggers write it; it is given back once, and never changes otherwise."""

    __tablename__ = "action_starts"
    __table_args__ = (
        Index("idx_action_starts_time", "limit_id", "started_at", "place"),
        _partial(
            "idx_action_starts_given_back",
            "limit_id",
            "started_at",
            where="given_back_at IS NOT NULL",
        ),
        Index("idx_action_starts_proposal", "proposal_id", "limit_id", "place"),
    )

    limit_id: Mapped[int] = mapped_column(BIGINT, primary_key=True, autoincrement=False)
    # From 1 without gaps, in the order of the times.
    place: Mapped[int] = mapped_column(BIGINT, primary_key=True, autoincrement=False)
    started_at: Mapped[str] = mapped_column(UTCDateTime)
    proposal_id: Mapped[int] = mapped_column(BIGINT)
    amount: Mapped[int] = mapped_column(BIGINT)
    # The sum of the amounts up to this place.
    total: Mapped[int] = mapped_column(BIGINT)
    given_back_at: Mapped[str | None] = mapped_column(UTCDateTime)


# What the triggers on PostgreSQL read before they evaluate rules: see revision 0009.
Sequence("action_rules_flag", minvalue=-(2**63), data_type=BIGINT, metadata=Base.metadata)


class ActionRuleRow(Base):
    """A rule: which proposals need whose approval, or are denied."""

    __tablename__ = "action_rules"
    __table_args__ = (
        _partial("idx_action_rules_open", "id", where="revoked_at IS NULL"),
        _AUTOINCREMENT,
    )

    id: Mapped[int] = mapped_column(BIGINT, Identity(always=True), primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    action_name: Mapped[str | None] = mapped_column(Text)
    action_type: Mapped[str | None] = mapped_column(Text)
    agent_id: Mapped[str | None] = mapped_column(Text)
    requester_type: Mapped[str | None] = mapped_column(Text)
    conditions: Mapped[str] = mapped_column(JSONText, server_default="[]")
    effect: Mapped[str] = mapped_column(Text, server_default="require")
    approvals: Mapped[int] = mapped_column(Integer, server_default=text("1"))
    roles: Mapped[str | None] = mapped_column(JSONText)
    approvers: Mapped[str | None] = mapped_column(JSONText)
    allow_self: Mapped[bool] = mapped_column(Boolean, server_default=false())
    allow_agents: Mapped[bool] = mapped_column(Boolean, server_default=false())
    decide_within: Mapped[float | None] = mapped_column(DOUBLE)
    valid_for: Mapped[float | None] = mapped_column(DOUBLE)
    covers_retries: Mapped[bool] = mapped_column(Boolean, server_default=false())
    valid_from: Mapped[str | None] = mapped_column(UTCDateTime)
    valid_until: Mapped[str | None] = mapped_column(UTCDateTime)
    added_by: Mapped[str] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text)
    created_at: Mapped[str] = mapped_column(UTCDateTime, server_default=written_now())
    revoked_at: Mapped[str | None] = mapped_column(UTCDateTime)
    revoked_by: Mapped[str | None] = mapped_column(Text)
    revoke_reason: Mapped[str | None] = mapped_column(Text)


class ActionRequirementRow(Base):
    """What is required of a proposal. It never changes."""

    __tablename__ = "action_requirements"
    __table_args__ = (
        Index("idx_action_requirements_proposal", "proposal_id", "id"),
        _AUTOINCREMENT,
    )

    id: Mapped[int] = mapped_column(BIGINT, Identity(always=True), primary_key=True)
    proposal_id: Mapped[int] = mapped_column(BIGINT, ForeignKey("action_proposals.id"))
    rule_id: Mapped[int | None] = mapped_column(BIGINT, ForeignKey("action_rules.id"))
    name: Mapped[str] = mapped_column(Text)
    effect: Mapped[str] = mapped_column(Text, server_default="require")
    approvals: Mapped[int] = mapped_column(Integer, server_default=text("1"))
    roles: Mapped[str | None] = mapped_column(JSONText)
    approvers: Mapped[str | None] = mapped_column(JSONText)
    allow_self: Mapped[bool] = mapped_column(Boolean, server_default=false())
    allow_agents: Mapped[bool] = mapped_column(Boolean, server_default=false())
    decide_within: Mapped[float | None] = mapped_column(DOUBLE)
    valid_for: Mapped[float | None] = mapped_column(DOUBLE)
    covers_retries: Mapped[bool] = mapped_column(Boolean, server_default=false())
    created_at: Mapped[str] = mapped_column(UTCDateTime, server_default=written_now())


class ActionGrantRow(Base):
    """A vote that was given in advance. It is revoked once and never edited."""

    __tablename__ = "action_grants"
    __table_args__ = (
        _partial("idx_action_grants_open", "id", where="revoked_at IS NULL"),
        _AUTOINCREMENT,
    )

    id: Mapped[int] = mapped_column(BIGINT, Identity(always=True), primary_key=True)
    action_name: Mapped[str | None] = mapped_column(Text)
    conditions: Mapped[str] = mapped_column(JSONText, server_default="[]")
    # For each condition, conditions of which at least one does not match if, and only if, it holds and can be evaluated.
    refutations: Mapped[str] = mapped_column(JSONText, server_default="[]")
    roles: Mapped[str] = mapped_column(JSONText, server_default="[]")
    max_uses: Mapped[int] = mapped_column(Integer)
    valid_until: Mapped[str] = mapped_column(UTCDateTime)
    granted_by: Mapped[str] = mapped_column(Text)
    grantor_key: Mapped[str] = mapped_column(Text)
    grantor_type: Mapped[str] = mapped_column(Text, server_default="user")
    reason: Mapped[str] = mapped_column(Text)
    created_at: Mapped[str] = mapped_column(UTCDateTime, server_default=written_now())
    revoked_at: Mapped[str | None] = mapped_column(UTCDateTime)
    revoked_by: Mapped[str | None] = mapped_column(Text)
    revoke_reason: Mapped[str | None] = mapped_column(Text)


class ActionDecisionRow(Base):
    """What a person decided about a proposal. It never changes."""

    __tablename__ = "action_decisions"
    __table_args__ = (
        Index("idx_action_decisions_proposal", "proposal_id", "id"),
        Index(
            "uq_action_decisions_withdraws",
            "withdraws_id",
            unique=True,
            sqlite_where=text("withdraws_id IS NOT NULL"),
            postgresql_where=text("withdraws_id IS NOT NULL"),
        ),
        _partial("idx_action_decisions_grant", "grant_id", where="grant_id IS NOT NULL"),
        _AUTOINCREMENT,
    )

    id: Mapped[int] = mapped_column(BIGINT, Identity(always=True), primary_key=True)
    proposal_id: Mapped[int] = mapped_column(BIGINT, ForeignKey("action_proposals.id"))
    kind: Mapped[str] = mapped_column(Text)
    decided_by: Mapped[str] = mapped_column(Text)
    decider_key: Mapped[str] = mapped_column(Text)
    decider_type: Mapped[str] = mapped_column(Text, server_default="user")
    roles: Mapped[str] = mapped_column(JSONText, server_default="[]")
    digest: Mapped[str | None] = mapped_column(Text)
    comment: Mapped[str | None] = mapped_column(Text)
    requirement_id: Mapped[int | None] = mapped_column(BIGINT, ForeignKey("action_requirements.id"))
    grant_id: Mapped[int | None] = mapped_column(BIGINT, ForeignKey("action_grants.id"))
    withdraws_id: Mapped[int | None] = mapped_column(BIGINT, ForeignKey("action_decisions.id"))
    validates: Mapped[bool] = mapped_column(Boolean, server_default=true())
    # The last event of the proposal before it. A start after it uses it up.
    after_event: Mapped[int] = mapped_column(BIGINT, server_default=text("-1"))
    created_at: Mapped[str] = mapped_column(UTCDateTime, server_default=written_now())


class OutcomeResolutionRow(Base):
    """What became of an execution with an unknown outcome. It is written once and never changes."""

    __tablename__ = "outcome_resolutions"
    __table_args__ = (
        Index("uq_outcome_resolutions_record_id", "record_id", unique=True),
        CheckConstraint("succeeded IN (0, 1)", name="succeeded").ddl_if(dialect="sqlite"),
        _AUTOINCREMENT,
    )

    id: Mapped[int] = mapped_column(BIGINT, Identity(always=True), primary_key=True)
    record_id: Mapped[int] = mapped_column(BIGINT, ForeignKey("action_records.id"))
    proposal_id: Mapped[int] = mapped_column(BIGINT, ForeignKey("action_proposals.id"))
    succeeded: Mapped[bool] = mapped_column(Boolean)
    resolved_by: Mapped[str] = mapped_column(Text)
    evidence: Mapped[str] = mapped_column(Text)
    created_at: Mapped[str] = mapped_column(UTCDateTime, server_default=written_now())


class ActionEventRow(Base):
    """One event of the history. Triggers write it and refuse every change."""

    __tablename__ = "action_events"
    __table_args__ = (
        # SQLite's BOOLEAN takes any number.
        CheckConstraint("success IN (0, 1)", name="success").ddl_if(dialect="sqlite"),
        *(
            _on_sqlite(ForeignKeyConstraint([column], [target]))
            for column, target in (
                ("proposal_id", "action_proposals.id"),
                ("record_id", "action_records.id"),
            )
        ),
        Index("idx_action_events_proposal", "proposal_id", "id"),
        # SQLite's triggers read it to know whether the start or the end of a record has an event.
        Index(
            "idx_action_events_record",
            "record_id",
            sqlite_where=text("record_id IS NOT NULL"),
            info={"only on": "sqlite"},
        ).ddl_if(dialect="sqlite"),
        Index(
            "idx_action_events_order",
            "transaction_id",
            "id",
            info={"only on": "postgresql"},
        ).ddl_if(dialect="postgresql"),
        _AUTOINCREMENT,
    )

    id: Mapped[int] = mapped_column(BIGINT, Identity(always=True), primary_key=True)
    # None for events of halts and limits.
    proposal_id: Mapped[int | None] = mapped_column(BIGINT)
    record_id: Mapped[int | None] = mapped_column(BIGINT)
    event_type: Mapped[str] = mapped_column(Text)
    from_status: Mapped[str | None] = mapped_column(Text)
    to_status: Mapped[str | None] = mapped_column(Text)
    success: Mapped[bool | None] = mapped_column(Boolean)
    actor: Mapped[str] = mapped_column(Text)
    reason: Mapped[str | None] = mapped_column(Text)
    occurred_at: Mapped[str] = mapped_column(UTCDateTime)
    # It tells a follower that no earlier event can follow: ids are assigned before the commit.
    transaction_id: Mapped[int] = mapped_column(BIGINT, server_default=current_transaction())
    version: Mapped[int | None] = mapped_column(BIGINT)
    worker: Mapped[str | None] = mapped_column(Text)
    details: Mapped[str | None] = mapped_column(JSONText)


# Statements use these tables. With the attributes of the classes, each execution would go through the ORM's planning,
# which costs as much as the execution on SQLite.
TICKETS: Final = cast(Table, TicketRow.__table__)
PROPOSALS: Final = cast(Table, ActionProposalRow.__table__)
RECORDS: Final = cast(Table, ActionRecordRow.__table__)
EVENTS: Final = cast(Table, ActionEventRow.__table__)
HALTS: Final = cast(Table, ActionHaltRow.__table__)
LIMITS: Final = cast(Table, ActionLimitRow.__table__)
STARTS: Final = cast(Table, ActionStartRow.__table__)
WORKFLOWS: Final = cast(Table, WorkflowRow.__table__)
RESOLUTIONS: Final = cast(Table, OutcomeResolutionRow.__table__)
DEPENDENCIES: Final = cast(Table, ActionDependencyRow.__table__)
RULES: Final = cast(Table, ActionRuleRow.__table__)
REQUIREMENTS: Final = cast(Table, ActionRequirementRow.__table__)
GRANTS: Final = cast(Table, ActionGrantRow.__table__)
DECISIONS: Final = cast(Table, ActionDecisionRow.__table__)
VOTES: Final = table(
    "action_votes",
    column("proposal_id", BIGINT),
    column("decision_id", BIGINT),
    column("requirement_id", BIGINT),
    column("decider_key", Text),
    column("valid_until", UTCDateTime),
)
"""The view of the approvals that can count for a requirement now."""

TABLES: Final = tuple(Base.metadata.tables)
"""The names of all tables."""

VIEWS: Final = (
    "action_approvals",
    "action_approvals_asked",
    "action_halts_asked",
    "action_halts_covering",
    "action_halts_told",
    "action_limits_asked",
    "action_limits_told",
    "action_limits_used",
    "action_rules_asked",
    "action_rules_candidates",
    "action_votes",
)
"""The names of the views, which SQLite's triggers use."""

NUMBERED: Final = tuple(
    name for name in TABLES if "id" in Base.metadata.tables[name].c and name != "tickets"
)
"""The names of the tables whose ids the ledger assigns."""
