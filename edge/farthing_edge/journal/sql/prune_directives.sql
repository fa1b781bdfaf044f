DELETE FROM directives WHERE position BETWEEN ? AND ?;
