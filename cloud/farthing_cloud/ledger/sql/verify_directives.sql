WITH links AS (
    SELECT d.*, lag(d.version, 1, 0) OVER chain AS version_before,
        lag(d.body_hash, 1, decode(repeat('00', 32), 'hex')) OVER chain AS hash_before,
        lead(d.version) OVER chain AS version_after
    FROM directives d
    WINDOW chain AS (PARTITION BY d.gateway_id ORDER BY d.version)
)
SELECT format('directive %%s of %%s: %%s', l.version, l.gateway_id,
    CASE
        WHEN sha256(l.body) <> l.body_hash THEN 'its bytes do not have its hash'
        WHEN l.version <> l.version_before + 1 THEN 'the one before it is missing'
        WHEN l.previous_hash <> l.hash_before THEN 'it does not follow the one before it'
        ELSE 'the chain ends elsewhere'
    END)
FROM links l
JOIN gateways g ON g.gateway_id = l.gateway_id
WHERE sha256(l.body) <> l.body_hash
    OR l.version <> l.version_before + 1
    OR l.previous_hash <> l.hash_before
    OR (l.version_after IS NULL AND (g.directive_version, g.directive_hash) IS DISTINCT FROM (l.version, l.body_hash))
ORDER BY l.gateway_id, l.version
LIMIT 1
