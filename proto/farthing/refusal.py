"""Every no has a number, and the number never changes its meaning.

Rule 1: the hundreds are the rules of authorization in the order in which they are checked; the first that fails names
the refusal. Rule 2: a number is never used again for something else; a rule grows reasons within its hundred.
Rule 3: the last two hundreds are not about the intent but about the gateway: it can be asked again.
"""

from enum import IntEnum, unique


@unique
class Refusal(IntEnum):
    """Why a gateway said no; rule × 100 + reason."""

    # 1: well-formed, and said by whom it names
    MALFORMED = 100
    SIGNATURE_INVALID = 101
    RECIPIENT_DIFFERS = 102
    COMMITMENT_DIFFERS = 103
    CHANNEL_DIFFERS = 104  # the channel belongs to another device than the statement
    TOO_LARGE = 105
    REGISTER_UNKNOWN = 106
    # 2: the device
    DEVICE_UNKNOWN = 200
    DEVICE_SUSPENDED = 201
    DEVICE_DECOMMISSIONED = 202
    DEVICE_EPOCH_DIFFERS = 203
    DEVICE_BLOCKED = 204  # by a fraud case, e.g. a proven clone
    REGISTER_EPOCH_DIFFERS = 205
    REGISTER_BUSY = 206  # one open authorization per register
    REGISTER_WENT_BACK = 207
    REGISTER_TOO_FAST = 208  # more than its rated power could have counted in the time
    CLOCK_AHEAD = 209  # its statement is dated more than a day ahead of a clock that is trusted
    # 3: the counter
    COUNTER_REUSED = 300  # same counter, other content
    COUNTER_TOO_OLD = 301
    INTENT_ENDED = 302  # the device cancelled it before it arrived
    # 4, 5: the token
    TOKEN_DENIED = 400
    TOKEN_UNKNOWN = 500
    # 6: the account
    ACCOUNT_SUSPENDED = 600
    ACCOUNT_UNKNOWN = 601
    # 7: the tariff
    CURRENCY_DIFFERS = 700
    TARIFF_MISSING = 701
    TARIFF_DIFFERS = 702  # the payer was shown another tariff version than this device's
    # 8: the entitlement
    NOT_ENTITLED = 800
    # 9: usage limits
    LIMIT_PER_AUTHORIZATION = 900
    LIMIT_PER_DAY = 901
    LIMIT_SINCE_CONTACT = 902
    # 10: the place
    OUTSIDE_FENCE = 1000
    IMPOSSIBLE_TRAVEL = 1001
    # 11: risk
    RISK_TOO_HIGH = 1100
    # 12: money
    QUOTA_EXHAUSTED = 1200
    NO_QUOTA = 1201
    FLOOR_EXHAUSTED = 1202
    # 13: later, the gateway cannot decide now
    OVERLOADED = 1300
    STORAGE_FULL = 1301
    NOT_AUTHORIZING = 1302  # rollback suspected: a new incarnation is needed; or directives are still to come
    DIRECTIVES_TOO_OLD = 1303
    CLOCK_UNTRUSTED = 1304  # priced by date or time of day, and nobody vouches for the gateway's clock
    # 14: again, after the device has learned something
    INCARNATION_DIFFERS = 1400
    AUTHORIZATION_UNKNOWN = 1401

    @property
    def rule(self) -> int:
        """The number of the rule that failed."""
        return self.value // 100
