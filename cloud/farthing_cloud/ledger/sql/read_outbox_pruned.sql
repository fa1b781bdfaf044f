SELECT transaction_id::text, sequence FROM outbox_pruned
