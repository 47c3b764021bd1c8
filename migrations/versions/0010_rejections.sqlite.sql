-- Revision 0010 on SQLite. Statements end at a semicolon before a blank line.
--
-- What the requirements and decisions of a proposal come to is worked out by one program, `action_approvals_look_up`: for whoever asks
-- for it, and for the guard of the two columns. SQLite compiles every program that a statement could reach, also those that it never
-- runs, and copies the text of a view to each place that names one of its columns. So each value is named once, in an INSERT into a view
-- that stores nothing.
--
-- Anybody may insert into these views. `action_approvals_become` writes what it is given, and its UPDATE fires the guard, which has the
-- values worked out and `action_approvals_compare` compare them. These must stay two triggers: without recursive triggers, a trigger
-- does not fire while it runs, so the one that has written values could not compare them.

CREATE VIEW action_approvals_looked_up AS SELECT id AS proposal_id, 0 AS asked, approval, lapses_at FROM action_proposals WHERE 0;

CREATE VIEW action_approvals_found AS
SELECT id AS proposal_id, 0 AS asked, approval AS is_approval, lapses_at AS is_lapses_at, approval, lapses_at FROM action_proposals WHERE 0;

CREATE TRIGGER action_approvals_ask
INSTEAD OF INSERT ON action_approvals_asked
BEGIN
    INSERT INTO action_approvals_looked_up VALUES (NEW.proposal_id, 1, NULL, NULL);
END;

CREATE TRIGGER action_approvals_look_up
INSTEAD OF INSERT ON action_approvals_looked_up
BEGIN
    INSERT INTO action_approvals_found
    SELECT NEW.proposal_id, NEW.asked, NEW.approval, NEW.lapses_at, found.approval, found.lapses_at
    FROM action_approvals AS found WHERE found.proposal_id = NEW.proposal_id;
END;

CREATE TRIGGER action_approvals_become
INSTEAD OF INSERT ON action_approvals_found
WHEN NEW.asked
BEGIN
    UPDATE action_proposals SET approval = NEW.approval, lapses_at = NEW.lapses_at
    WHERE id = NEW.proposal_id AND (approval IS NOT NEW.approval OR lapses_at IS NOT NEW.lapses_at);
END;

CREATE TRIGGER action_approvals_compare
INSTEAD OF INSERT ON action_approvals_found
WHEN NEW.asked IS NOT 1
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_kept: the ledger keeps approval and lapses_at')
    WHERE NOT ((NEW.is_approval IS NEW.approval OR NEW.is_approval = 'held' AND NEW.approval = 'given') AND NEW.is_lapses_at IS NEW.lapses_at
            AND (EXISTS (SELECT 1 FROM action_requirements WHERE proposal_id = NEW.proposal_id)
                OR EXISTS (SELECT 1 FROM action_decisions WHERE proposal_id = NEW.proposal_id AND kind = 'rejected')));
END;

CREATE TRIGGER action_proposals_approval_kept
BEFORE UPDATE OF approval, lapses_at ON action_proposals
WHEN NEW.approval IS NOT OLD.approval OR NEW.lapses_at IS NOT OLD.lapses_at
BEGIN
    INSERT INTO action_approvals_looked_up VALUES (OLD.id, 0, NEW.approval, NEW.lapses_at);
END;
