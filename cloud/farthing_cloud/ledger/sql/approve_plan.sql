UPDATE correction_plans SET approved_by = %(approved_by)s, approved_at_us = %(approved_at_us)s
WHERE plan_id = %(plan_id)s
