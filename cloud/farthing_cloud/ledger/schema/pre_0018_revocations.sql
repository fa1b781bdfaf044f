-- Whether the audit chain has a link that says so: of revocations from before there were such links nobody can tell.
ALTER TABLE gateway_revocations ADD COLUMN linked boolean NOT NULL DEFAULT false;
ALTER TABLE gateway_revocations ALTER COLUMN linked SET DEFAULT true;
