UPDATE import_reviews SET approved_by = %(approved_by)s, approved_at_us = %(approved_at_us)s
WHERE review_id = %(review_id)s
