-- Every identity and status that a device ever had, for the public log. A trigger writes it: whoever changes a device, and with
-- whatever program, it is published.
CREATE TABLE device_change (
    sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    transaction_id xid8 NOT NULL DEFAULT pg_current_xact_id(),
    content bytea NOT NULL,
    status smallint NOT NULL,
    -- Real time.
    at_us bigint NOT NULL
);

CREATE INDEX device_change_order ON device_change (transaction_id, sequence);

CREATE FUNCTION note_device_change() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO device_change (content, status, at_us)
    VALUES (NEW.content, NEW.status, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);
    RETURN NULL;
END
$$;

CREATE TRIGGER device_changed AFTER INSERT OR UPDATE ON device
    FOR EACH ROW EXECUTE FUNCTION note_device_change();

-- What was registered before has its first entry now.
INSERT INTO device_change (content, status, at_us)
SELECT content, status, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
FROM device ORDER BY device_id;
