-- The same proof adds nothing; beyond the limit a case needs no more of them.
INSERT INTO proof (case_id, proof_id, device_epoch, counter, first_cose, first_gateway_id, second_cose, second_gateway_id)
SELECT %(case_id)s, %(proof_id)s, %(device_epoch)s, %(counter)s,
       %(first_cose)s, %(first_gateway_id)s, %(second_cose)s, %(second_gateway_id)s
WHERE (SELECT count(*) FROM proof WHERE case_id = %(case_id)s) < %(limit)s
ON CONFLICT (case_id, proof_id) DO NOTHING
RETURNING proof_id;
