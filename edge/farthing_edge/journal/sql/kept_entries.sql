SELECT k.position, e.kind FROM kept AS k JOIN entries AS e ON e.position = k.position ORDER BY k.position;
