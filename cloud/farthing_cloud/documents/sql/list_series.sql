SELECT prefix, kind, issued FROM series WHERE operator_id = %(operator_id)s ORDER BY prefix;
