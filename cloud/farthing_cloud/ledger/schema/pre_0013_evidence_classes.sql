-- The least evidence class of a gateway's site (EvidenceClass of batch.proto: a smaller number is stronger); what is below waits for people.
ALTER TABLE gateways ADD COLUMN least_class smallint NOT NULL DEFAULT 1 CHECK (least_class BETWEEN 1 AND 3);
