"""Faults in what the database promises about halts, rules, approvals, grants and limits."""

from typing import Final

from tests.mutants.mutant import Mutant

__all__ = ["MUTANTS"]

_TEXT: Final = "src/operator_core/db/schema.py"
_SERVER: Final = "migrations/versions/0009_approvals.postgresql.sql"
_CONTRACT: Final = "tests/contract/"
_REJECTED: Final = (
    _CONTRACT + "test_approvals.py::test_a_rejection_also_holds_where_nothing_was_required"
)


def _both(
    name: str, sqlite: tuple[str, str], server: tuple[str, str], test: str, why: str
) -> tuple[Mutant, Mutant]:
    """The same fault on SQLite and on PostgreSQL."""
    tests = (_CONTRACT + test,)
    return (
        Mutant(
            name=f"{name}-on-sqlite",
            file=_TEXT,
            old=sqlite[0],
            new=sqlite[1],
            tests=tests,
            why=why,
        ),
        Mutant(
            name=f"{name}-on-postgresql",
            file=_SERVER,
            old=server[0],
            new=server[1],
            tests=tests,
            why=why,
        ),
    )


MUTANTS: Final = (
    *_both(
        "guard-asks-for-no-approval",
        (
            "FROM action_approvals WHERE OLD.approval IS NOT NULL AND proposal_id = OLD.id AND NOT met;",
            "FROM action_approvals WHERE 0;",
        ),
        (
            "                    IF NOT %1$I.action_requirements_met(OLD.id) THEN\n",
            "                    IF false THEN\n",
        ),
        "test_approvals.py::test_raw_sql_needs_approvals_too",
        "Raw SQL starts what nobody has approved.",
    ),
    *_both(
        "rules-are-not-evaluated",
        (
            "EXISTS (SELECT 1 FROM action_rules WHERE revoked_at IS NULL);\nEND;",
            "0;\nEND;",
        ),
        (
            "    IF matched IS NULL THEN\n",
            "    IF true THEN\n",
        ),
        "test_rules.py::test_all_rules_that_match_apply",
        "A rule asks for nothing.",
    ),
    *_both(
        "revoked-rules-apply",
        (
            "AND proposal.status <> 'cancelled' AND rule.revoked_at IS NULL",
            "AND proposal.status <> 'cancelled'",
        ),
        (
            "rule.revoked_at IS NULL\n            AND (rule.valid_from",
            "(rule.valid_from",
        ),
        "test_rules.py::test_a_revoked_rule_asks_for_nothing_more",
        "A rule that was revoked asks for approvals.",
    ),
    *_both(
        "approval-binds-to-no-digest",
        ("AND (NEW.digest = content_digest) IS NOT TRUE;", "AND 0;"),
        (
            "        IF NEW.digest OPERATOR(pg_catalog.<>) of_proposal.content_digest OR ",
            "        IF ",
        ),
        "test_approvals.py::test_raw_sql_approves_nothing_else_either",
        "Something else runs than what was approved.",
    ),
    *_both(
        "requester-approves",
        (
            "\n    AND (requirement.allow_self OR NOT (",
            "\n    AND (1 OR NOT (",
        ),
        (
            "    AND (requirement.allow_self OR NOT action_requirements_excludes(",
            "    AND (true OR NOT action_requirements_excludes(",
        ),
        "test_approvals.py::test_requester_agent_and_proposer_do_not_approve_their_own",
        "Who asks for an action approves it.",
    ),
    *_both(
        "agent-approves",
        (
            "    AND (requirement.allow_agents OR decision.decider_type <> 'agent')\n",
            "",
        ),
        (
            "    AND (requirement.allow_agents OR decision.decider_type <> 'agent')\n",
            "",
        ),
        "test_approvals.py::test_agents_approve_only_where_a_rule_lets_them",
        "An agent approves what another agent asks for.",
    ),
    *_both(
        "withdrawn-approval-counts",
        (
            "    AND NOT EXISTS (SELECT 1 FROM action_decisions AS later WHERE later.withdraws_id = decision.id)\n    AND (requirement.valid_for",
            "    AND (requirement.valid_for",
        ),
        (
            "    AND NOT EXISTS (SELECT 1 FROM action_decisions AS later WHERE later.withdraws_id = decision.id)\n    AND (requirement.valid_for",
            "    AND (requirement.valid_for",
        ),
        "test_approvals.py::test_a_withdrawn_approval_counts_no_more",
        "An approval that was withdrawn starts it.",
    ),
    *_both(
        "rejection-is-not-final",
        (
            "        AND NOT EXISTS (SELECT 1 FROM action_decisions AS rejection WHERE rejection.proposal_id = proposal.id AND rejection.kind = 'rejected')\n",
            "",
        ),
        (
            "        OR EXISTS (SELECT 1 FROM %1$I.action_decisions WHERE proposal_id OPERATOR(pg_catalog.=) of_proposal AND kind OPERATOR(pg_catalog.=) 'rejected') THEN",
            "        THEN",
        ),
        "test_approvals.py::test_a_rejected_retry_never_runs",
        "What was rejected runs.",
    ),
    *_both(
        "start-uses-nothing-up",
        (
            "    AND (requirement.covers_retries OR (\n",
            "    AND (1 OR (\n",
        ),
        (
            "    AND (requirement.covers_retries OR (\n",
            "    AND (true OR (\n",
        ),
        "test_approvals.py::test_a_retry_needs_new_approvals",
        "One approval starts an action again and again.",
    ),
    *_both(
        "decision-comes-too-late",
        (
            "    SELECT RAISE(ABORT, 'action_decisions_undecided: it was not decided in time')\n",
            "    SELECT 1\n",
        ),
        (
            "            refused := 'undecided: it was not decided in time';\n",
            "            refused := NULL;\n",
        ),
        "test_approvals.py::test_what_is_not_decided_in_time_is_cancelled",
        "An approval that comes after its time starts it.",
    ),
    *_both(
        "grant-without-end",
        (
            "        AND (SELECT count(*) FROM action_decisions WHERE grant_id = a_grant.id) < a_grant.max_uses\n",
            "",
        ),
        (
            "        CONTINUE WHEN (SELECT pg_catalog.count(*) FROM %1$I.action_decisions WHERE grant_id OPERATOR(pg_catalog.=) given.id) OPERATOR(pg_catalog.>=) given.max_uses;\n",
            "",
        ),
        "test_grants.py::test_uses_are_counted",
        "A grant of one use approves everything.",
    ),
    *_both(
        "grant-takes-doubt-for-consent",
        (
            " UNION ALL SELECT value, 0 FROM json_each(NEW.refutations)) AS asked",
            ") AS asked",
        ),
        (
            "                WHERE %1$I.action_ledger_condition_matches(new.parameters, refuting.conditions))\n",
            "                WHERE false)\n",
        ),
        "test_grants.py::test_a_condition_holds_only_if_it_can_be_evaluated",
        "A grant approves parameters that nobody could read.",
    ),
    *_both(
        "rules-can-be-edited",
        ("    OR NEW.approvals IS NOT OLD.approvals\n    OR NEW.roles IS NOT OLD.roles\n", ""),
        (
            "CREATE TRIGGER action_rules_guard\nBEFORE INSERT OR UPDATE ON",
            "CREATE TRIGGER action_rules_guard\nBEFORE INSERT ON",
        ),
        "test_edited_as_it_ends.py",
        "A rule asks for less than it was added for.",
    ),
    *_both(
        "halt-lets-proposals-begin",
        (
            "    INSERT INTO action_halts_asked VALUES (OLD.action_name, OLD.agent_id, OLD.run_id, OLD.parent_id, 1);\n",
            "",
        ),
        (
            "                    refused := %1$I.action_halts_refusal(NEW.action_name, NEW.agent_id, NEW.run_id, NEW.parent_id, true);\n",
            "                    refused := NULL;\n",
        ),
        "test_halts.py::test_raw_sql_begins_nothing_either",
        "Something begins after the halt.",
    ),
    Mutant(
        name="rejections-do-not-hold-without-a-requirement-on-sqlite",
        file=_TEXT,
        old="        OR NEW.kind = 'rejected' AND EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.proposal_id AND status = 'failed');\n",
        new=";\n",
        tests=(_REJECTED,),
        why="Somebody retries what was rejected.",
    ),
    Mutant(
        name="rejections-do-not-hold-without-a-requirement-on-postgresql",
        file="migrations/versions/0010_rejections.py",
        old="    IF required OR NEW.kind OPERATOR(pg_catalog.=) 'rejected' AND EXISTS (",
        new="    IF required OR NEW.kind OPERATOR(pg_catalog.=) 'none' AND EXISTS (",
        tests=(_REJECTED,),
        why="Somebody retries what was rejected.",
    ),
    Mutant(
        name="approval-is-set-by-hand-on-sqlite",
        file=_TEXT,
        old="WHEN NEW.asked IS NOT 1\n",
        new="WHEN 0\n",
        tests=("tests/migrations/test_raw_approvals.py",),
        why="Who forges the approval of a row hides that it is missing.",
    ),
    Mutant(
        name="halt-can-be-edited-on-sqlite",
        file=_TEXT,
        old="    OR NEW.mode IS NOT OLD.mode\n",
        new="",
        tests=("tests/migrations/test_raw_halts.py",),
        why="A halt becomes one that lets proposals in.",
    ),
)
