UPDATE wish SET parked_reason = %(reason)s WHERE sequence = %(sequence)s
