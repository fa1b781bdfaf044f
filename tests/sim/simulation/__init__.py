"""Gateways, devices, a ledger and everything that can go wrong between them, from one seed.

Gateways are the real cores around a journal that is a list, devices the real device core around a register, the ledger is the real one
over its store in memory. Time, network, disks and clocks are simulated, and nothing else is random than what a story says.

Rule 1: a *story* (who plays, what happens when, which message is lost or late) says everything: the same story is the same history,
to the last message. A seed draws a story.
Rule 2: fates are drawn by name, not in order: what is taken out of a story does not change the rest of it. So stories can be shrunk.
Rule 3: devices count for themselves; what they delivered, priced by the contract, is what every step is held against.
"""
