SELECT post_rest(
    %(operator_id)s, %(currency)s, %(kind)s, %(posted_at_us)s,
    %(l_posting)s, %(l_subject)s, %(l_business_at_us)s, %(l_body)s, %(l_digest)s,
    %(a_path)s, %(a_debits_pending)s, %(a_debits_posted)s, %(a_credits_pending)s, %(a_credits_posted)s,
    %(q_id)s, %(q_posted)s, %(q_voided)s, %(q_status)s,
    %(d_gateway)s, %(d_account)s, %(d_micros)s, %(d_at_us)s,
    %(e_kind)s, %(e_key)s, %(e_value)s, %(e_traceparent)s,
    %(batches)s, %(rest)s)
