UPDATE log SET size = %(size)s WHERE name = %(log)s
