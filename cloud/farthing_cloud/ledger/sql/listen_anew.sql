UPDATE listening SET since_us = %(now_us)s, last_us = %(now_us)s
