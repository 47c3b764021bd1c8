"""The SQL functions of the ledger, compiled for both dialects."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Boolean, Float, Text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import NullType

from operator_core.actions.values import MAX_DELAY
from operator_core.db.sql.base import SQLITE_NOW, UTCDateTime

__all__ = [
    "after_jitter",
    "amount_in",
    "contains",
    "counts_under",
    "covers",
    "current_transaction",
    "from_now",
    "holds_key",
    "is_met",
    "limits_are_quiet",
    "may_be_ruled",
    "readable",
    "strictly_after",
    "ticket_now",
    "used_starts",
    "used_sum",
    "utcnow",
    "written_now",
]


class ticket_now(FunctionElement[str]):  # noqa: N801
    """The database's clock in the form of the tickets table: text in UTC, as SQLite's CURRENT_TIMESTAMP."""

    type = Text()
    inherit_cache = True


@compiles(ticket_now)
def _ticket_now(element: ticket_now, compiler: SQLCompiler, **_: Any) -> str:
    return "to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS')"


@compiles(ticket_now, "sqlite")
def _ticket_now_sqlite(element: ticket_now, compiler: SQLCompiler, **_: Any) -> str:
    return "CURRENT_TIMESTAMP"


class contains(FunctionElement[bool]):  # noqa: N801
    """Whether the first text contains the second. The case of ASCII letters does not count, on both databases."""

    type = Boolean()
    inherit_cache = True


@compiles(contains)
def _contains(element: contains, compiler: SQLCompiler, **options: Any) -> str:
    # By the rules of "C", lower() changes ASCII only, as SQLite's does.
    whole, part = (
        f'lower(CAST({compiler.process(each, **options)} AS text) COLLATE "C")'
        for each in element.clauses
    )
    return f"strpos({whole}, {part}) > 0"


@compiles(contains, "sqlite")
def _contains_sqlite(element: contains, compiler: SQLCompiler, **options: Any) -> str:
    whole, part = (f"lower({compiler.process(each, **options)})" for each in element.clauses)
    return f"instr({whole}, {part}) > 0"


class utcnow(FunctionElement[datetime]):  # noqa: N801 - used in statements like a SQL function
    """The database's clock, in the form that `UTCDateTime` stores."""

    type = UTCDateTime()
    inherit_cache = True


@compiles(utcnow)
def _utcnow(element: utcnow, compiler: SQLCompiler, **_: Any) -> str:
    return "clock_timestamp()"


@compiles(utcnow, "sqlite")
def _utcnow_sqlite(element: utcnow, compiler: SQLCompiler, **_: Any) -> str:
    return SQLITE_NOW


class written_now(FunctionElement[datetime]):  # noqa: N801
    """As `utcnow`, but with the same value for all columns of a row."""

    type = UTCDateTime()
    inherit_cache = True


@compiles(written_now)
def _written_now(element: written_now, compiler: SQLCompiler, **_: Any) -> str:
    return "statement_timestamp()"


@compiles(written_now, "sqlite")
def _written_now_sqlite(element: written_now, compiler: SQLCompiler, **_: Any) -> str:
    # SQLite's clock does not advance during a statement.
    return SQLITE_NOW


class current_transaction(FunctionElement[int]):  # noqa: N801
    """The growing number of the writing transaction; 0 on SQLite, which has one writer at a time."""

    type = BigInteger()
    inherit_cache = True


@compiles(current_transaction)
def _current_transaction(element: current_transaction, compiler: SQLCompiler, **_: Any) -> str:
    # Never below a completed transaction. If two transactions change one proposal and the second waits for the first,
    # the second may still have the lower number of its own.
    return (
        "greatest(pg_current_xact_id()::text::bigint, "
        "pg_snapshot_xmax(pg_current_snapshot())::text::bigint - 1)"
    )


@compiles(current_transaction, "sqlite")
def _current_transaction_sqlite(
    element: current_transaction, compiler: SQLCompiler, **_: Any
) -> str:
    return "0"


class strictly_after(FunctionElement[datetime]):  # noqa: N801
    """The database's clock, or one tick after the time in the column if the clock is not later."""

    type = UTCDateTime()
    inherit_cache = True


@compiles(strictly_after)
def _strictly_after(element: strictly_after, compiler: SQLCompiler, **options: Any) -> str:
    column = compiler.process(element.clauses, **options)
    # A time at the end of the range, which another tool set, is replaced by the clock.
    after = f"CASE WHEN {column} < '9998-01-01 00:00:00+00' THEN {column} + interval '1 microsecond' END"
    return f"greatest(clock_timestamp(), {after})"


@compiles(strictly_after, "sqlite")
def _strictly_after_sqlite(element: strictly_after, compiler: SQLCompiler, **options: Any) -> str:
    column = compiler.process(element.clauses, **options)
    after = f"strftime('%Y-%m-%d %H:%M:%f000', {column}, '+0.001 seconds')"
    # NULL, or a time that another tool made unreadable, is replaced by the clock.
    return f"coalesce(max({SQLITE_NOW}, {after}), {SQLITE_NOW})"


class from_now(FunctionElement[datetime]):  # noqa: N801
    """The database's clock plus a number of seconds."""

    type = UTCDateTime()
    inherit_cache = True


@compiles(from_now)
def _from_now(element: from_now, compiler: SQLCompiler, **options: Any) -> str:
    seconds = compiler.process(element.clauses, **options)
    return f"clock_timestamp() + make_interval(secs => {seconds})"


@compiles(from_now, "sqlite")
def _from_now_sqlite(element: from_now, compiler: SQLCompiler, **options: Any) -> str:
    seconds = compiler.process(element.clauses, **options)
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', printf('%+.3f seconds', {seconds}))"


class after_jitter(FunctionElement[float]):  # noqa: N801
    """Seconds until the retry after `retry_count` others: exponential backoff with full jitter.

    A random number from 0 to ``min(max_retry_delay, retry_delay * 2 ** retry_count)``, so that proposals that failed
    together are not retried together (M. Brooker, "Exponential Backoff And Jitter", AWS, 2015).
    """

    type = Float()
    inherit_cache = True


@compiles(after_jitter)
def _after_jitter(element: after_jitter, compiler: SQLCompiler, **options: Any) -> str:
    count, delay, most = (compiler.process(each, **options) for each in element.clauses)
    # Limited to the ledger's maximum, whatever another tool wrote into the columns.
    # On PostgreSQL, a product too small for a float is an error, which would fail the whole statement.
    return (
        f"random() * greatest(1e-9, least({most}, {MAX_DELAY}, "
        f"least({delay}, {MAX_DELAY}) * power(2, least({count}, 60))))"
    )


@compiles(after_jitter, "sqlite")
def _after_jitter_sqlite(element: after_jitter, compiler: SQLCompiler, **options: Any) -> str:
    count, delay, most = (compiler.process(each, **options) for each in element.clauses)
    # SQLite's random() returns any 64-bit integer, and power() exists only with a build option.
    return (
        f"abs(random() % 1000000) / 1e6 * min({most}, {MAX_DELAY}, "
        f"min({delay}, {MAX_DELAY}) * (1 << min({count}, 60)))"
    )


class covers(FunctionElement[Any]):  # noqa: N801
    """Whether a halt is about a proposal.

    Its arguments are the halt's `action_name`, `agent_id` and `run_id`, and the proposal's `action_name`, `agent_id`,
    `run_id` and `parent_id`. The schema's triggers ask the same.
    """

    # As in `arrays`: SQLAlchemy would compare a Boolean with 1.
    type = NullType()
    inherit_cache = True


@compiles(covers)
def _covers(element: covers, compiler: SQLCompiler, **options: Any) -> str:
    return f"action_halts_covers({compiler.process(element.clauses, **options)})"


@compiles(covers, "sqlite")
def _covers_sqlite(element: covers, compiler: SQLCompiler, **options: Any) -> str:
    # A value may appear twice, and then needs a parameter for each place.
    def term(place: int) -> str:
        return compiler.process(list(element.clauses)[place], **options)

    of_action, of_agent, of_run, action, agent, run, parent = range(7)
    in_run = f"other.run_id = {term(run)} AND other.agent_id = {term(of_agent)}"
    # The aliases: the columns of the proposal may be named by the table.
    above = (
        "SELECT parent.parent_id, parent.agent_id FROM action_proposals AS parent "  # noqa: S608
        f"WHERE parent.id = {term(parent)} UNION ALL "
        "SELECT next.parent_id, next.agent_id FROM above "
        "JOIN action_proposals AS next ON next.id = above.parent_id"
    )
    by_agent = (
        f"{term(of_agent)} IS NULL OR {term(of_agent)} = {term(agent)} OR {term(run)} IS NOT NULL "  # noqa: S608
        f"AND EXISTS (SELECT 1 FROM action_proposals AS other WHERE {in_run}) "
        f"OR {term(run)} IS NULL AND {term(parent)} IS NOT NULL AND EXISTS ("
        f"WITH RECURSIVE above (parent_id, agent_id) AS ({above}) "
        f"SELECT 1 FROM above WHERE above.agent_id = {term(of_agent)})"
    )
    return (
        f"(({term(of_run)} IS NULL OR {term(of_run)} = {term(run)}) "
        f"AND ({term(of_action)} IS NULL OR {term(action)} GLOB replace({term(of_action)}, '[', '[[]')) "
        f"AND ({by_agent}))"
    )


class counts_under(FunctionElement[Any]):  # noqa: N801
    """Whether a limit is about a proposal: the limit's `action_name` and `agent_id`, and those of the proposal."""

    type = NullType()
    inherit_cache = True


@compiles(counts_under)
def _counts_under(element: counts_under, compiler: SQLCompiler, **options: Any) -> str:
    return f"action_limits_covers({compiler.process(element.clauses, **options)})"


@compiles(counts_under, "sqlite")
def _counts_under_sqlite(element: counts_under, compiler: SQLCompiler, **options: Any) -> str:
    of_action, of_agent, action, agent = (
        compiler.process(each, **options) for each in element.clauses
    )
    return (
        f"(({of_action} IS NULL OR {action} GLOB replace({of_action}, '[', '[[]')) "
        f"AND ({of_agent} IS NULL OR coalesce({agent}, '') = '' OR lower({agent}) = lower({of_agent}) "
        f"OR {agent} GLOB '*[^!-~]*'))"
    )


class used_starts(FunctionElement[int]):  # noqa: N801
    """The number of starts that an open limit counts now: the limit's `id` and `window`."""

    type = BigInteger()
    inherit_cache = True


class used_sum(FunctionElement[int]):  # noqa: N801
    """The sum that an open limit counts now: the limit's `id` and `window`."""

    type = BigInteger()
    inherit_cache = True


def _used(column: str, kind: type[FunctionElement[Any]]) -> None:
    def on_server(element: FunctionElement[Any], compiler: SQLCompiler, **options: Any) -> str:
        return f"(action_limits_used({compiler.process(element.clauses, **options)})).{column}"

    def on_sqlite(element: FunctionElement[Any], compiler: SQLCompiler, **options: Any) -> str:
        id_, _ = (compiler.process(each, **options) for each in element.clauses)
        return f"(SELECT {column} FROM action_limits_used WHERE limit_id = {id_})"  # noqa: S608

    compiles(kind)(on_server)
    compiles(kind, "sqlite")(on_sqlite)


_used("starts", used_starts)
_used("spent", used_sum)


class amount_in(FunctionElement[int]):  # noqa: N801
    """The integer from 0 at a path of the parameters, or NULL: the columns of the parameters and of the path."""

    type = BigInteger()
    inherit_cache = True


@compiles(amount_in)
def _amount_in(element: amount_in, compiler: SQLCompiler, **options: Any) -> str:
    return f"action_limits_amount({compiler.process(element.clauses, **options)})"


@compiles(amount_in, "sqlite")
def _amount_in_sqlite(element: amount_in, compiler: SQLCompiler, **options: Any) -> str:
    parameters, path = (compiler.process(each, **options) for each in element.clauses)
    # As in revision 0008, but text that is not JSON must not fail the statement.
    return (
        "(SELECT CASE WHEN walked.depth = walked.steps AND walked.visited = walked.steps + 1 "  # noqa: S608
        "AND walked.type = 'integer' AND typeof(walked.value) = 'integer' AND walked.value >= 0 "
        "THEN walked.value END FROM (WITH RECURSIVE walk (depth, type, value) AS ("
        f"SELECT 0, 'object', CASE WHEN json_valid({parameters}) THEN {parameters} END UNION ALL "
        "SELECT walk.depth + 1, member.type, member.value FROM walk "
        f"CROSS JOIN json_each({path}) AS step ON +step.key = walk.depth "
        "CROSS JOIN json_each(CASE WHEN walk.type = 'object' OR walk.type = 'array' THEN walk.value END) AS member "
        "ON +member.key IS step.value) "
        "SELECT max(walk.depth) AS depth, count(*) AS visited, walk.type, walk.value, "
        f"(SELECT count(*) FROM json_each({path})) AS steps FROM walk) AS walked)"
    )


class holds_key(FunctionElement[Any]):  # noqa: N801
    """Whether a proposal with this status is executing, as the index of exclusive keys says it."""

    # As in `covers`.
    type = NullType()
    inherit_cache = True


@compiles(holds_key)
def _holds_key(element: holds_key, compiler: SQLCompiler, **options: Any) -> str:
    return f"{compiler.process(element.clauses, **options)} || '' = 'executing'"


@compiles(holds_key, "sqlite")
def _holds_key_sqlite(element: holds_key, compiler: SQLCompiler, **options: Any) -> str:
    return f"{compiler.process(element.clauses, **options)} = 'executing'"


class limits_are_quiet(FunctionElement[bool]):  # noqa: N801
    """Whether no limit has ever been set, on a server."""

    type = Boolean()
    inherit_cache = True


@compiles(limits_are_quiet)
def _limits_are_quiet(element: limits_are_quiet, compiler: SQLCompiler, **_: Any) -> str:
    return "action_limits_quiet()"


class readable(FunctionElement[bool]):  # noqa: N801
    """Whether the ledger can read the JSON in a column, as far as the database can check; always true on SQLite."""

    type = Boolean()
    inherit_cache = True


@compiles(readable)
def _readable(element: readable, compiler: SQLCompiler, **options: Any) -> str:
    (column,) = element.clauses
    # The raw column, without the cast that JSONText adds to results.
    return f"action_ledger_readable({compiler.process(column, **options)})"


@compiles(readable, "sqlite")
def _readable_sqlite(element: readable, compiler: SQLCompiler, **options: Any) -> str:
    return "1"


class is_met(FunctionElement[Any]):  # noqa: N801
    """Whether all that is required of the proposal with this id is met at the statement's time."""

    # As in `arrays`: SQLAlchemy would compare a Boolean with 1.
    type = NullType()
    inherit_cache = True


@compiles(is_met)
def _is_met(element: is_met, compiler: SQLCompiler, **options: Any) -> str:
    return f"action_requirements_met({compiler.process(element.clauses, **options)})"


@compiles(is_met, "sqlite")
def _is_met_sqlite(element: is_met, compiler: SQLCompiler, **options: Any) -> str:
    id_ = compiler.process(element.clauses, **options)
    return f"(SELECT met FROM action_approvals AS found WHERE found.proposal_id = {id_})"  # noqa: S608


class may_be_ruled(FunctionElement[Any]):  # noqa: N801
    """In a RETURNING of new proposals: whether another row may say what became of one, since a rule matches it."""

    type = NullType()
    inherit_cache = True


@compiles(may_be_ruled)
def _may_be_ruled(element: may_be_ruled, compiler: SQLCompiler, **_: Any) -> str:
    return "(action_proposals.approval IS NOT NULL)"


@compiles(may_be_ruled, "sqlite")
def _may_be_ruled_sqlite(element: may_be_ruled, compiler: SQLCompiler, **_: Any) -> str:
    # Its triggers evaluate the rules after the row that RETURNING shows was written.
    return "EXISTS (SELECT 1 FROM action_rules WHERE revoked_at IS NULL)"
