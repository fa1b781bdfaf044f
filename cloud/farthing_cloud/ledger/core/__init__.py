"""What the ledger decides: pure functions from a view of the rows a request touches to an immutable posting.

Rule 1: everything that can change where a micro goes is in this package; it knows no database, clock or protocol.
Rule 2: a decision of ours never makes an account's posted + held exceed its funds + credit limit (P1).
Rule 3: posting never fails for money: what has no hold goes the waterfall, available → debt → risk, each step its own
transfer with its cause; what a gateway bills above its exposure, or claims a second time, is set aside.
"""
