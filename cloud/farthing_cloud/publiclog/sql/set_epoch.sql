UPDATE log SET ledger_epoch = %(ledger_epoch)s WHERE name = %(log)s
