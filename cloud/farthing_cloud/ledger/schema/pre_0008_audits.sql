-- More reasons why a person has to look at a gateway.
ALTER TABLE gateway_cases DROP CONSTRAINT gateway_cases_kind_check;
ALTER TABLE gateway_cases ADD CONSTRAINT gateway_cases_kind_check
    CHECK (kind IN ('incarnation', 'equivocation', 'evidence', 'audit'));
