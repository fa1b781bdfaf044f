-- A second person lets a large payback go.
ALTER TABLE corrections DROP CONSTRAINT corrections_kind_check;
ALTER TABLE corrections ADD CONSTRAINT corrections_kind_check CHECK (kind IN ('refund', 'goodwill', 'payback', 'payback-approved',
    'payback-handed', 'payback-sent', 'payback-failed', 'payback-returned', 'chargeback', 'dispute', 'dispute-won', 'dispute-lost',
    'write-off', 'closing'));
CREATE UNIQUE INDEX corrections_approving_payback ON corrections (operator_id, payback_id) WHERE kind = 'payback-approved';
