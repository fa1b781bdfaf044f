"""Decide whether a payer may spend while the cloud is out of reach, and what every statement of a device means.

Rule 1: everything that can change the answer is in this package and in ``metering``.
Rule 2: both know no clock, no database, no signature and no protocol: ``now`` is an argument, ``decide`` says what happens,
``apply`` lets it happen, and the engine does both around one commit.
Import from its modules: ``deciding``, ``applying``, ``state``, ``commands``, ``events`` and their parts (this one imports nothing, as
``metering`` stands between them).
"""
