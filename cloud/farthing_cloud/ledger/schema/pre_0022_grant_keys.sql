-- Keys (SubjectPublicKeyInfo, DER) that signed a gateway's grants before the present one, the oldest first, and until when each did: an end that
-- another gateway carries is judged by the key of the time when its use began. (What was replaced before this step is not known any more.)
ALTER TABLE gateways
    ADD COLUMN earlier_grant_keys bytea[] NOT NULL DEFAULT '{}',
    ADD COLUMN earlier_grant_untils_us bigint[] NOT NULL DEFAULT '{}',
    ADD CHECK (cardinality(earlier_grant_keys) = cardinality(earlier_grant_untils_us));
