-- Whose audits failed lately: all their batches are drawn for a while.
CREATE INDEX audit_failed ON audit (due_at_us) WHERE outcome IN ('unanswered', 'false');
