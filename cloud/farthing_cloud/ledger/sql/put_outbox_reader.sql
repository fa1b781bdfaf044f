-- As it says, also where that is further back: its own database may have been restored.
INSERT INTO outbox_readers (reader, transaction_id, sequence, said_at_us)
VALUES (%(reader)s, %(transaction_id)s::text::xid8, %(sequence)s, %(said_at_us)s)
ON CONFLICT (reader) DO UPDATE
SET transaction_id = excluded.transaction_id, sequence = excluded.sequence, said_at_us = excluded.said_at_us
