SELECT post_rows(
    %(operator_id)s, %(currency)s, %(a_path)s, %(s_kind)s, %(s_cause)s, %(n_quota)s, %(n_authorization)s,
    %(t_sort)s, %(t_debit)s, %(t_credit)s, %(t_amount)s, %(t_quota)s, %(t_line)s, %(t_authorization)s,
    %(c_authorization)s, %(c_register)s, %(c_from)s, %(c_to)s, %(c_net)s, %(c_tax)s,
    %(c_final)s, %(c_aside)s, %(c_known)s, %(c_gateway)s, %(c_incarnation)s, %(c_sequence)s, '{}')
