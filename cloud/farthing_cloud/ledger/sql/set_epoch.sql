UPDATE epoch SET epoch = %(epoch)s, state = %(state)s, since_us = %(since_us)s, why = %(why)s
