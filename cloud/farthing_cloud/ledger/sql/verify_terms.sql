-- What people set and money hangs on: limits of accounts, exposures and public keys of gateways. The posting that set them names their
-- hash. (Links from before they did name nothing: what was set by one of those cannot be told until it is set again.)
WITH set_by AS (
    SELECT DISTINCT ON (p.operator_id, p.kind, split_part(p.subject, '/', 1)) p.operator_id, p.kind,
        split_part(p.subject, '/', 1) AS name, split_part(p.subject, '/', 2) AS hash
    FROM postings p
    WHERE p.kind IN ('account', 'gateway') AND p.subject <> ''
    ORDER BY p.operator_id, p.kind, split_part(p.subject, '/', 1), p.position DESC
), silent AS (
    SELECT DISTINCT p.operator_id, p.kind FROM postings p WHERE p.kind IN ('account', 'gateway') AND p.subject = ''
), terms AS (
    SELECT 'account' AS kind, y.operator_id, y.account_id AS name,
        encode(sha256(convert_to(concat_ws('|', y.account_id, y.currency, y.status, y.credit_limit_micros, y.debt_limit_micros,
            y.preload_micros), 'UTF8')), 'hex') AS hash,
        -- A correction that closes an account leaves it nothing.
        CASE WHEN c.correction_id IS NOT NULL THEN (y.status, y.credit_limit_micros, y.debt_limit_micros, y.preload_micros)
            = ('closed', 0, 0, 0) END AS closed
    FROM payers y
    LEFT JOIN corrections c ON c.operator_id = y.operator_id AND c.account_id = y.account_id AND c.kind = 'closing'
    UNION ALL
    SELECT 'gateway', g.operator_id, g.gateway_id,
        encode(sha256(convert_to(concat_ws('|', g.gateway_id, g.site_id, g.currency, g.exposure_micros, g.time_zone,
            encode(g.batch_key, 'hex'), encode(g.grant_key, 'hex'), nullif(g.least_class, 1),
            (SELECT string_agg(encode(e.key, 'hex') || ':' || e.until_us, ',' ORDER BY e.place)
             FROM unnest(g.earlier_grant_keys, g.earlier_grant_untils_us) WITH ORDINALITY AS e (key, until_us, place))), 'UTF8')), 'hex'), NULL
    FROM gateways g
), judged AS (
    SELECT kind, operator_id, name, t.hash IS NULL AS missing, b.hash IS NULL AS unset, coalesce(t.closed, t.hash = b.hash) AS fits
    FROM terms t
    FULL JOIN set_by b USING (kind, operator_id, name)
)
SELECT format('%%s %%s of %%s: %%s', j.kind, j.name, j.operator_id,
    CASE
        WHEN j.missing THEN 'its terms were set, and its row is not there'
        WHEN j.unset THEN 'nobody set its terms'
        ELSE 'its terms are not those that were set'
    END)
FROM judged j
LEFT JOIN silent s ON s.operator_id = j.operator_id AND s.kind = j.kind
WHERE j.missing OR (j.unset AND s.kind IS NULL) OR NOT (j.unset OR j.fits)
ORDER BY j.kind, j.name
LIMIT 1
