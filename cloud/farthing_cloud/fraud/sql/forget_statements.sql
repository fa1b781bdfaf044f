-- Bring one device back to its window: the first to come are the first to go.
WITH forgotten AS (
    DELETE FROM statement
    WHERE device_id = %(device_id)s
      AND arrival IN (
          SELECT arrival FROM statement WHERE device_id = %(device_id)s ORDER BY arrival LIMIT %(excess)s
      )
    RETURNING 1
)
UPDATE device_window SET kept = kept - (SELECT count(*) FROM forgotten) WHERE device_id = %(device_id)s;
