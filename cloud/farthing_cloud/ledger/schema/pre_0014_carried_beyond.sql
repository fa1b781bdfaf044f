-- What carried ends billed beyond holds on a gateway's grants, as long as its own chain has not claimed the use as far: part of
-- gateways.beyond_micros until then, and part of that batch's from then on.
CREATE TABLE carried_beyond (
    authorization_id bytea NOT NULL,
    gateway_id       text NOT NULL REFERENCES gateways (gateway_id),
    micros           numeric(38, 0) NOT NULL CHECK (micros > 0),
    PRIMARY KEY (authorization_id, gateway_id)
);
