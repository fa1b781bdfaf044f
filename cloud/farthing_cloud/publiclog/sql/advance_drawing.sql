UPDATE drawing SET size = %(size)s
