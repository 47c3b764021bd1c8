"""The callers of the state machine with those who make rules, approve, reject, give grants, halt and resume."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from operator_core.actions import ActionProposal, ActionStatus, Decision, HaltMode, Rule
from tests.contract.governed_machine import GovernedMachine
from tests.contract.governed_model import DECIDABLE, GovernedModel
from tests.contract.ledger_approvals import Granted, Required, Ruled
from tests.contract.ledger_choices import (
    ASKED,
    GRANT,
    HALT,
    RULE,
    TO_ASK,
    among,
    drawn,
    likely,
    some,
    sometimes,
)
from tests.contract.ledger_halts import Stop
from tests.contract.ledger_limits import AMOUNT
from tests.contract.ledger_replay import Replay

S = ActionStatus

PEOPLE = st.sampled_from(["mia", "noor", "kim", "BOT", "dora"])
"""The last two act for some proposals, and so can't approve these."""
ROLES = st.sampled_from([(), ("a",), ("b",), ("a", "b")])
FOREVER = datetime(2999, 1, 1, tzinfo=UTC)


def waiting(model: GovernedModel) -> list[int]:
    """What people decide about, and is not started yet."""
    found = [model.proposals[id] for id in model.asked()]
    return [each.id for each in found if each.status in DECIDABLE and not each.decided.rejected]


def missing(model: GovernedModel) -> list[int]:
    return [id for id in waiting(model) if not model.proposals[id].decided.met()]


def voted(model: GovernedModel) -> list[int]:
    return [id for id in waiting(model) if model.proposals[id].decided.votes]


OPEN_HALT = st.runner().flatmap(
    lambda machine: st.sampled_from([each.id for each in machine.model.open_halts()] or [0])
)
now_and_then = precondition(lambda machine: machine.steps % 3 == 2)
is_halted = precondition(lambda machine: bool(machine.model.open_halts()))


class DecidingMachine(GovernedMachine):
    """Callers, workers, those who govern them, and people who decide."""

    model: GovernedModel

    def new_model(self) -> GovernedModel:
        return GovernedModel(sweeps_first="://" not in str(self.place))

    # ------ rules and grants

    @initialize(
        values=st.lists(RULE, min_size=1, max_size=2),
        grants=st.lists(st.tuples(PEOPLE, GRANT), max_size=2),
        made=st.lists(TO_ASK, min_size=2, max_size=4),
    )
    def begin_with_rules(
        self,
        values: list[dict[str, Any]],
        grants: list[tuple[str, dict[str, Any]]],
        made: list[ActionProposal],
    ) -> None:
        for each in values:
            self.add_rule(each)
        for by, given in grants:
            self.grant(by, given)
        for proposed in made:
            self.ask(proposed)

    @sometimes
    @some(lambda model: len(model.open_rules()) < 3)
    @rule(values=RULE)
    def add_rule(self, values: dict[str, Any]) -> None:
        above = values["above"]
        asked = Required(values["approvals"], values["roles"], values["covers_retries"])
        made = self.run(
            self.db.add_rule(
                Rule(
                    name="r",
                    action_name=values["action_name"],
                    agent_id=values["agent_id"],
                    effect="deny" if values["denies"] else "require",
                    conditions=[]
                    if above is None
                    else [{"path": [AMOUNT], "op": "gt", "value": above}],
                    approvals=asked.approvals,
                    roles=asked.roles,
                    covers_retries=asked.covers_retries,
                ),
                by="boss",
                reason="policy",
            )
        )
        agent = values["agent_id"] and values["agent_id"].lower()
        known = Ruled(made.id, values["action_name"], agent, above, values["denies"], asked)
        self.model.rules[made.id] = known

    @sometimes
    @some(lambda model: model.open_rules())
    @rule(which=st.integers(0, 2))
    def revoke_rule(self, which: int) -> None:
        known = self.model.open_rules()[which % len(self.model.open_rules())]
        self.run(self.db.revoke_rule(known.id, by="lead", reason="over"))
        known.revoked_by = "lead"

    @sometimes
    @some(lambda model: len(model.open_grants()) < 3)
    @rule(by=PEOPLE, values=GRANT)
    def grant(self, by: str, values: dict[str, Any]) -> None:
        made = self.run(self.db.grant(by=by, valid_until=FOREVER, reason="routine", **values))
        self.model.grants[made.id] = Granted(made.id, by.lower(), by, **values)

    @sometimes
    @some(lambda model: model.open_grants())
    @rule(which=st.integers(0, 2))
    def revoke_grant(self, which: int) -> None:
        known = self.model.open_grants()[which % len(self.model.open_grants())]
        self.run(self.db.revoke_grant(known.id, by="lead", reason="over"))
        known.revoked_by = "lead"

    # ------ decisions

    @rule(made=TO_ASK)
    def ask(self, made: ActionProposal) -> None:
        self.propose([made])

    @some(missing)
    @rule(id=drawn(missing), by=PEOPLE, roles=ROLES)
    def approve_what_waits(self, id: int, by: str, roles: Sequence[str]) -> None:
        self.approve(id, by, roles)

    @rule(id=likely(waiting, among(S.FAILED)), by=PEOPLE, roles=ROLES)
    def approve(self, id: int, by: str, roles: Sequence[str]) -> None:
        known = self.model.proposals.get(id)
        if known is not None and not known.readable:
            return
        digest = None if known is None else self.replay.digests[id]
        call = self.db.approve_proposal(id, by=by, digest=digest, roles=roles)
        expected = self.model.approve(id, by, roles)
        if expected is not None and not isinstance(expected, bool):
            self.check(expected, call)
            return
        found: Decision = self.run(call)
        assert (found.decided_by.lower(), found.repeated) == (by.lower(), not expected)

    @some(missing)
    @rule(id=drawn(missing), then=st.sampled_from(["", "start", "fail", "unbegun", "amend"]))
    def approve_by_all(self, id: int, then: str) -> None:
        """Nothing is missing, unless it was denied or some of them act for it."""
        for person in ("mia", "noor", "kim"):
            self.approve(id, person, ("a", "b"))
        if then == "amend":
            self.amend(id, {AMOUNT: 2})
        elif then:
            self.claim_this(id)
        held = [each.id for each in self.model.open_records() if each.proposal_id == id]
        if held and then == "fail":
            self.fail(held[-1], None, False)
            self.approve(id, "mia", ("a", "b"))
        elif held and then == "unbegun":
            self.give_back(held[-1])

    @some(voted)
    @rule(id=likely(voted), by=PEOPLE)
    def withdraw(self, id: int, by: str) -> None:
        if id in self.model.proposals and not self.model.proposals[id].readable:
            return
        expected = self.model.withdraw(id, by)
        self.check(expected, self.db.withdraw_approval(id, by=by, reason="hm"))

    @now_and_then
    @rule(id=likely(waiting), by=PEOPLE)
    def reject(self, id: int, by: str) -> None:
        if id in self.model.proposals and not self.model.proposals[id].readable:
            return
        expected = self.model.reject(id, by)
        self.check(expected, self.db.reject_proposal(id, by=by, reason="no"))

    @some(waiting)
    @rule(id=drawn(waiting), how=st.sampled_from(["claim", "validate", "start", "retry"]))
    def move_what_waits(self, id: int, how: str) -> None:
        match how:
            case "claim":
                self.claim_this(id)
            case "retry":
                self.retry(id)
            case _:
                self.move(id, S.VALIDATED if how == "validate" else S.EXECUTING, None)

    # ------ the stop

    @now_and_then
    @some(lambda model: len(model.open_halts()) < 2)
    @rule(values=HALT, cancel=st.sampled_from([False, False, True]))
    def halt(self, values: dict[str, Any], cancel: bool) -> None:
        report = self.run(self.db.halt(by="oncall", reason="stop", cancel=cancel, **values))
        stop = Stop(report.halt.id, **values)
        again = stop.id in self.model.halts
        assert again == any(each.same(stop) for each in self.model.open_halts()), (
            "the same halt twice is one"
        )
        self.model.halt(stop, "oncall", cancels=cancel)
        executing = {
            each.id
            for each in self.model.proposals.values()
            if each.status is S.EXECUTING and stop.covers(each.row)
        }
        # Workers that have not noticed that their proposals were taken away.
        unnoticed = {
            record.proposal_id
            for record in self.model.open_records()
            if stop.covers(self.model.proposals[record.proposal_id].row)
        }
        assert report.complete
        running = {each.proposal_id for each in report.running if each.ended_at is None}
        assert running == executing | unnoticed
        for record in self.model.open_records():
            if record.proposal_id in executing and not record.lapsed:
                self.heartbeat(record.id, lapses=False)

    @some(lambda model: missing(model) and not model.open_halts())
    @rule(id=drawn(missing), mode=st.sampled_from(["halted", "observe"]))
    def approve_while_halted(self, id: int, mode: str) -> None:
        self.halt({"mode": HaltMode(mode), "action_name": ASKED, "agent_id": None}, False)
        self.approve_by_all(id, "")

    @is_halted
    @rule(id=OPEN_HALT)
    def resume(self, id: int) -> None:
        resumed = self.run(self.db.resume(id, by="lead", reason="over"))
        assert [each.id for each in resumed] == [id]
        assert self.model.resume(id, "lead")

    @is_halted
    @rule(id=OPEN_HALT)
    def resume_sooner(self, id: int) -> None:
        """Twice as likely as others: little happens while much is halted."""
        self.resume(id)

    # ------ what holds after every step

    @invariant()
    def what_is_approved_is_what_the_model_says(self) -> None:
        for id in self.model.asked():
            known = self.model.proposals[id]
            if known.status not in DECIDABLE:
                continue
            row = self.run(self.db.get_proposal(id))
            assert row is not None
            met = known.decided.met()
            is_held = known.held and known.status is not S.VALIDATED
            assert row.approval == ("needed" if not met else "held" if is_held else "given")
            assert self.run(self.db.is_approved(id)) is met

    def look_back(self) -> Replay:
        replay = super().look_back()
        self._compare_rows(replay)
        for id in self.model.asked():
            found = self.run(self.db.approvals(id))
            known = self.model.proposals[id].decided
            assert len(
                [each for each in found.requirements if each.requirement.effect == "require"]
            ) == len(known.required)
            withdrawn = {each.withdraws_id for each in found.decisions}
            votes = [
                each
                for each in found.decisions
                if each.kind == "approved" and each.id not in withdrawn
            ]
            assert [each.decided_by.lower() for each in votes] == [
                each.person for each in known.votes
            ]
        modes = {each.mode for each in self.model.open_halts() if each.is_whole}
        expected = (
            HaltMode.HALTED if HaltMode.HALTED in modes else max(modes, default=HaltMode.EXECUTE)
        )
        assert self.run(self.db.mode()) == expected
        return replay

    def _compare_rows(self, replay: Replay) -> None:
        """Rules, grants, halts and decisions are as their events tell, and as the model knows them."""
        rules = self.run(self.db.rules(active=False))
        assert {each.id: each.revoked_by for each in rules} == replay.rules
        assert {id: each.revoked_by for id, each in self.model.rules.items()} == replay.rules
        grants = self.run(self.db.grants(active=False))
        assert {each.id: each.revoked_by for each in grants} == replay.grants
        assert {each.id: each.uses for each in grants} == {
            id: each.uses for id, each in self.model.grants.items()
        }
        assert {id: replay.uses.get(id, 0) for id in self.model.grants} == {
            id: each.uses for id, each in self.model.grants.items()
        }
        halts = self.run(self.db.halts(active=False))
        assert {each.id: each.resumed_by for each in halts} == replay.halts
        assert {id: each.resumed_by for id, each in self.model.halts.items()} == replay.halts

    def _compare_with(self, replay: Replay) -> None:
        super()._compare_with(replay)
        proposals = self.model.proposals.items()
        votes = {id: [vote.person for vote in each.decided.votes] for id, each in proposals}
        assert {id: list(each.values()) for id, each in replay.votes.items() if each} == {
            id: each for id, each in votes.items() if each
        }
        asked = {id: len(each.decided.required) + each.decided.denials for id, each in proposals}
        assert dict(replay.required) == {id: count for id, count in asked.items() if count}
        rejected = {id for id, each in proposals if each.decided.rejected}
        assert replay.rejected == rejected
