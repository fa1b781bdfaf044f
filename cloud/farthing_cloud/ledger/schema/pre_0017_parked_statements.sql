-- How many statements a batch brought that its gateway could not take (Batch.parked): so that people find them among millions of batches.
ALTER TABLE batches ADD COLUMN parked_statements integer NOT NULL DEFAULT 0;

-- Batches that are here already: counted from their own bytes. Field 26 of the protobuf message, of wire type 2: its tag is the varint 0xD2 0x01.
CREATE FUNCTION count_parked(p_batch bytea) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    v_at integer := 0;
    v_tag bigint;
    v_number bigint;
    v_shift integer;
    v_count integer := 0;
BEGIN
    WHILE v_at < length(p_batch) LOOP
        v_tag := 0;
        v_shift := 0;
        LOOP
            v_tag := v_tag | ((get_byte(p_batch, v_at) & 127)::bigint << v_shift);
            v_shift := v_shift + 7;
            v_at := v_at + 1;
            EXIT WHEN get_byte(p_batch, v_at - 1) < 128;
        END LOOP;
        IF v_tag & 7 = 1 THEN
            v_at := v_at + 8;
        ELSIF v_tag & 7 = 5 THEN
            v_at := v_at + 4;
        ELSE
            -- A number itself (a varint), or the length of what follows.
            v_number := 0;
            v_shift := 0;
            LOOP
                v_number := v_number | ((get_byte(p_batch, v_at) & 127)::bigint << v_shift);
                v_shift := v_shift + 7;
                v_at := v_at + 1;
                EXIT WHEN get_byte(p_batch, v_at - 1) < 128;
            END LOOP;
            IF v_tag & 7 = 2 THEN
                v_at := v_at + v_number::integer;
                v_count := v_count + (v_tag >> 3 = 26)::integer;
            END IF;
        END IF;
    END LOOP;
    RETURN v_count;
END
$$;
UPDATE batches SET parked_statements = count_parked(batch) WHERE position('\xd201'::bytea IN batch) > 0;
DROP FUNCTION count_parked(bytea);

CREATE INDEX batches_with_parked ON batches (operator_id, posting_id) WHERE parked_statements > 0;
