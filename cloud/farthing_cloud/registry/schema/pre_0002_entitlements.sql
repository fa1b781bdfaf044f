-- What a payer may use under a tariff of its own. Never deleted: an entitlement that is over was told to gateways.
CREATE TABLE entitlement (
    operator_id text NOT NULL REFERENCES operator,
    entitlement_id text NOT NULL,
    content bytea NOT NULL,
    PRIMARY KEY (operator_id, entitlement_id)
);
