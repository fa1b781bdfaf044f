INSERT INTO rewindings (gateway_id, epoch, shown_at_us, directives, set_aside, quotas, reinstated_micros, short_micros, incarnation, sequence,
    given_up)
VALUES (%(gateway_id)s, %(epoch)s, %(shown_at_us)s, %(directives)s, %(set_aside)s, %(quotas)s, %(reinstated_micros)s, %(short_micros)s,
    %(incarnation)s, %(sequence)s, %(given_up)s)
ON CONFLICT (gateway_id, epoch) DO UPDATE
SET shown_at_us = excluded.shown_at_us, directives = excluded.directives, set_aside = excluded.set_aside, quotas = excluded.quotas,
    reinstated_micros = excluded.reinstated_micros, short_micros = excluded.short_micros, incarnation = excluded.incarnation,
    sequence = excluded.sequence, given_up = excluded.given_up
