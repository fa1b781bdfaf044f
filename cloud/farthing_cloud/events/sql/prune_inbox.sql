-- Keep the last arrivals; remember up to which place the inbox has forgotten.
WITH forgotten AS (
    DELETE FROM event_inbox
    WHERE consumer = %(consumer)s
      AND arrival <= (SELECT max(arrival) - %(rows)s FROM event_inbox WHERE consumer = %(consumer)s)
    RETURNING transaction_id, sequence
), last AS (
    SELECT transaction_id, sequence FROM forgotten ORDER BY transaction_id DESC, sequence DESC LIMIT 1
)
UPDATE event_cursor
SET forgotten_transaction_id = last.transaction_id, forgotten_sequence = last.sequence
FROM last
WHERE consumer = %(consumer)s
  AND (forgotten_transaction_id, forgotten_sequence) < (last.transaction_id, last.sequence);
