DELETE FROM wish WHERE sequence = %(sequence)s
