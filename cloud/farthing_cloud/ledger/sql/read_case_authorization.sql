SELECT c.authorization_id FROM cases c WHERE c.id = %(case_id)s
