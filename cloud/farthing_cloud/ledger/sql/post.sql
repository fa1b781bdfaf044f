SELECT posting_id, audit_head
FROM post(
    %(operator_id)s, %(currency)s, %(kind)s, %(subject)s, %(posted_at_us)s, %(business_at_us)s, %(body)s, %(digest)s,
    %(a_path)s, %(a_debits_pending)s, %(a_debits_posted)s, %(a_credits_pending)s, %(a_credits_posted)s,
    %(s_kind)s, %(s_cause)s, %(n_quota)s, %(n_authorization)s,
    %(t_sort)s, %(t_debit)s, %(t_credit)s, %(t_amount)s, %(t_quota)s, %(t_line)s, %(t_authorization)s,
    %(q_id)s, %(q_posted)s, %(q_voided)s, %(q_status)s,
    %(c_authorization)s, %(c_register)s, %(c_from)s, %(c_to)s, %(c_net)s, %(c_tax)s,
    %(c_final)s, %(c_aside)s, %(c_known)s, %(c_gateway)s, %(c_incarnation)s, %(c_sequence)s,
    %(d_gateway)s, %(d_account)s, %(d_micros)s, %(d_at_us)s,
    %(e_kind)s, %(e_key)s, %(e_value)s, %(e_traceparent)s,
    %(batch)s, %(rest)s)
