SELECT e.position, e.at_us, e.kind, e.body, e.chain, k.previous_chain FROM kept AS k
JOIN entries AS e ON e.position = k.position ORDER BY k.position;
