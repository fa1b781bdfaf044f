-- A payback is under way until the bank has said what became of it.
ALTER TABLE corrections ADD COLUMN payback_id text NOT NULL DEFAULT '';
ALTER TABLE corrections DROP CONSTRAINT corrections_kind_check;
ALTER TABLE corrections ADD CONSTRAINT corrections_kind_check CHECK (kind IN ('refund', 'goodwill', 'payback', 'payback-handed',
    'payback-sent', 'payback-failed', 'payback-returned', 'chargeback', 'dispute', 'dispute-won', 'dispute-lost', 'write-off', 'closing'));
-- It is handed over once, and it leaves or fails once. What left comes back once.
CREATE UNIQUE INDEX corrections_handing_payback ON corrections (operator_id, payback_id) WHERE kind = 'payback-handed';
CREATE UNIQUE INDEX corrections_ending_payback ON corrections (operator_id, payback_id) WHERE kind IN ('payback-sent', 'payback-failed');
CREATE UNIQUE INDEX corrections_returning_payback ON corrections (operator_id, payback_id) WHERE kind = 'payback-returned';
-- What the bank booked once ends one payback.
CREATE UNIQUE INDEX corrections_by_bank ON corrections (operator_id, kind, payment_id) WHERE payback_id <> '' AND payment_id <> '';
CREATE INDEX corrections_paying_back ON corrections (operator_id, posting_id) WHERE kind = 'payback';
