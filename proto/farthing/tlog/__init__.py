"""The public log: signed notes, checkpoints, tiles and proofs as anybody computes them (C2SP signed-note, tlog-checkpoint, tlog-tiles, tlog-cosignature)."""
