SELECT fault FROM (
    SELECT 1 AS rule, format('account %%s of %%s owes %%s with %%s available', d.path, d.operator_id,
        d.debits_posted - d.credits_posted,
        p.credits_posted + y.credit_limit_micros - p.debits_posted - p.debits_pending) AS fault
    FROM payers y
    JOIN accounts d ON d.operator_id = y.operator_id AND d.currency = y.currency AND d.path = 'debt/' || y.account_id
    JOIN accounts p ON p.operator_id = y.operator_id AND p.currency = y.currency AND p.path = 'payer/' || y.account_id
    WHERE d.debits_posted > d.credits_posted
        AND p.credits_posted + y.credit_limit_micros > p.debits_posted + p.debits_pending
    UNION ALL
    SELECT 2, format('account %%s of %%s differs from its other side or from its open cases', s.path, s.operator_id)
    FROM accounts s
    LEFT JOIN accounts u ON u.operator_id = s.operator_id AND u.currency = s.currency
        AND u.path = 'unearned/' || split_part(s.path, '/', 2)
    WHERE s.path LIKE 'suspense/%%'
        AND ((s.debits_posted, s.credits_posted) IS DISTINCT FROM (u.credits_posted, u.debits_posted)
            OR s.debits_posted - s.credits_posted <> (
                SELECT coalesce(sum(a.net_micros + a.tax_micros), 0)
                FROM asides a JOIN cases c ON c.id = a.case_id
                WHERE c.operator_id = s.operator_id AND c.currency = s.currency AND c.status = 'open'
                    AND a.site_id = split_part(s.path, '/', 2)))
    UNION ALL
    SELECT 3, format('account %%s of %%s is closed and does not stand at zero', a.path, a.operator_id)
    FROM accounts a
    JOIN closings c ON c.operator_id = a.operator_id AND c.currency = a.currency
        AND a.path LIKE 'clearing/%%/' || c.closed
    WHERE a.debits_posted <> a.credits_posted
    UNION ALL
    SELECT 4, format('account %%s of %%s is not what its payback has under way', a.path, a.operator_id)
    FROM accounts a
    LEFT JOIN corrections c ON c.operator_id = a.operator_id AND c.currency = a.currency AND c.kind = 'payback'
        AND a.path = 'transit/' || c.correction_id
    WHERE a.path LIKE 'transit/%%' AND a.credits_posted - a.debits_posted <> CASE
        WHEN EXISTS (SELECT FROM corrections e WHERE e.operator_id = c.operator_id AND e.payback_id = c.correction_id
            AND e.kind IN ('payback-sent', 'payback-failed')) THEN 0
        ELSE coalesce(c.amount_micros, 0) END
) AS faults
ORDER BY rule, fault
LIMIT 1
