-- Whether this proof is new. Beyond the limit a case needs no more of them kept.
WITH known AS (
    SELECT 1 FROM proof WHERE case_id = %(case_id)s AND proof_id = %(proof_id)s
), kept AS (
    INSERT INTO proof (
        case_id, proof_id, device_epoch, counter, first_cose, first_gateway_id, second_cose, second_gateway_id
    )
    SELECT %(case_id)s, %(proof_id)s, %(device_epoch)s, %(counter)s,
           %(first_cose)s, %(first_gateway_id)s, %(second_cose)s, %(second_gateway_id)s
    WHERE (SELECT count(*) FROM proof WHERE case_id = %(case_id)s) < %(limit)s
    ON CONFLICT (case_id, proof_id) DO NOTHING
)
SELECT NOT EXISTS (SELECT 1 FROM known);
