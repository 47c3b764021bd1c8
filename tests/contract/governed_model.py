"""What must hold of a ledger with rules, decisions, grants and halts."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from operator_core.actions import (
    ActionProposal,
    ActionStatus,
    ApprovalRequired,
    Conflict,
    EndCode,
    HaltMode,
    NotEligible,
    NotFound,
)
from tests.contract.ledger_approvals import Decided, Granted, Ruled
from tests.contract.ledger_halts import Stop
from tests.contract.ledger_model import LEDGER, Model, Proposal, Refusal, Refusals

S = ActionStatus

DECIDABLE = (S.PROPOSED, S.VALIDATED, S.FAILED)


@dataclass
class GovernedModel(Model):
    """A ledger, and those who decide."""

    rules: dict[int, Ruled] = field(default_factory=dict)
    grants: dict[int, Granted] = field(default_factory=dict)

    def open_rules(self) -> list[Ruled]:
        return [each for each in self.rules.values() if each.revoked_by is None]

    def open_grants(self) -> list[Granted]:
        return [each for each in self.grants.values() if each.revoked_by is None]

    def asked(self) -> list[int]:
        """The proposals of which something is required."""
        asks = ((each.id, each.decided) for each in self.proposals.values())
        return [id for id, decided in asks if decided.required or decided.denials]

    # ------ what is proposed

    def check_new(self, made: Sequence[ActionProposal]) -> Refusals:
        unapproved = any(
            row.status in (S.VALIDATED, S.EXECUTING)
            and (matching := [each for each in self.open_rules() if each.matches(row)])
            and not any(each.denies for each in matching)
            for row in made
        )
        return super().check_new(made) + (ApprovalRequired,) * unapproved

    def add(self, made: Proposal) -> None:
        super().add(made)
        matching = [each for each in self.open_rules() if each.matches(made.row)]
        if not matching or made.status in (S.COMPLETED, S.CANCELLED):
            return
        names = (made.row.proposed_by, made.row.agent_id, made.row.requester_id)
        made.decided = Decided(
            [each.required for each in matching if not each.denies],
            denials=sum(each.denies for each in matching),
            parties=frozenset(name.lower() for name in names if name is not None),
            begun=made.decided.begun,
        )
        if made.decided.denials:
            if made.status is not S.FAILED:
                made.move(S.CANCELLED, LEDGER, EndCode.DENIED)
        elif made.status is S.PROPOSED:
            self._use_grants(made)

    def _use_grants(self, made: Proposal) -> None:
        """Votes in advance count in the order in which they were given, while they are needed."""
        for grant in self.open_grants():
            vote = made.decided.vote_of(grant.person, grant.roles)
            is_for_it = grant.action_name == made.row.action_name and made.decided.fits(vote)
            if grant.uses == grant.max_uses or not is_for_it:
                continue
            if made.decided.met() or made.decided.has_voted(grant.person):
                continue
            grant.uses += 1
            made.decided.votes.append(vote)
            self._act(made, grant.by)

    # ------ what is decided

    def approve(self, id: int, by: str, roles: Sequence[str]) -> Refusal | bool:
        """The error, or whether the approval changes anything."""
        person = by.lower()
        proposal = self.proposals.get(id)
        if proposal is None:
            return NotFound
        decided = proposal.decided
        if proposal.status not in DECIDABLE or decided.rejected:
            return Conflict
        if decided.has_voted(person):
            return False
        vote = decided.vote_of(person, roles)
        if (decided.required or decided.denials) and not decided.fits(vote):
            return NotEligible
        decided.votes.append(vote)
        self._act(proposal, by)
        return True

    def _act(self, proposal: Proposal, by: str) -> None:
        """Validates what has all its approvals by now, unless it is halted."""
        is_retried = proposal.status is S.FAILED and proposal.retried
        if not proposal.decided.required or not proposal.decided.met():
            return
        if proposal.status is S.PROPOSED or is_retried:
            if self.is_halted(proposal.row):
                proposal.held = True
            else:
                self._validate(proposal, by)

    @staticmethod
    def _validate(proposal: Proposal, by: str) -> None:
        proposal.retry_count += proposal.status is S.FAILED
        proposal.move(S.VALIDATED, by)
        proposal.off_the_list()

    def withdraw(self, id: int, by: str) -> Refusal:
        proposal = self.proposals.get(id)
        if proposal is None:
            return NotFound
        decided = proposal.decided
        if proposal.status not in DECIDABLE or decided.rejected:
            return Conflict
        if not decided.withdraw(by.lower()):
            return Conflict
        proposal.held = proposal.held and decided.met()
        return None

    def reject(self, id: int, by: str) -> Refusal:
        proposal = self.proposals.get(id)
        if proposal is None:
            return NotFound
        if proposal.status not in DECIDABLE or proposal.decided.rejected:
            return Conflict
        proposal.decided.rejected, proposal.held = True, False
        if proposal.status is not S.FAILED:
            proposal.move(S.CANCELLED, by, EndCode.REJECTED)
        elif proposal.retried:
            proposal.version += 1
        proposal.off_the_list()
        return None

    # ------ the stop

    def halt(self, stop: Stop, by: str, *, cancels: bool) -> None:
        self.halts.setdefault(stop.id, stop)
        if not cancels or stop.mode is not HaltMode.HALTED:
            return
        for proposal in self.proposals.values():
            if not stop.covers(proposal.row):
                continue
            if proposal.status in (S.PROPOSED, S.VALIDATED):
                proposal.move(S.CANCELLED, by, EndCode.HALTED)
                proposal.off_the_list()
            elif proposal.status is S.FAILED and proposal.retried:
                proposal.version += 1
                proposal.off_the_list()

    def resume(self, id: int, by: str) -> bool:
        """Whether it was open."""
        stop = self.halts[id]
        if stop.resumed_by is not None:
            return False
        stop.resumed_by = by
        for proposal in self.proposals.values():
            if self.is_released(proposal):
                self._validate(proposal, LEDGER)
        return True

    def is_released(self, proposal: Proposal) -> bool:
        """Whether it was approved while it was halted, and no halt covers it any more."""
        is_open = proposal.status is S.PROPOSED or (
            proposal.status is S.FAILED and proposal.retried
        )
        return proposal.held and is_open and not self.is_halted(proposal.row)
