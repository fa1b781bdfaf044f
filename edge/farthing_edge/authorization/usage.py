"""What is remembered of tokens and devices so that limits, travel and risk can be asked about the next intent.

Rule 1: it follows from journaled events alone, so a restart forgets no limit; a gateway without such policies keeps nothing.
Rule 2: every table is keyed by what directives name (tokens, devices), and what a day is over with is dropped when the next begins.
"""

from collections import deque
from contextlib import suppress
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from farthing.clock import QUARTER_US, SECOND_US, Instant
from farthing.device.messages import Position

#: Uses of a token that are remembered for "in the last hour". A person who starts more than one a minute is scored alike.
MAX_RECENT = 64
HOUR_US = 3600 * SECOND_US
#: Incarnations that may begin a day's counts anew. A journal that is lost takes its counts with it: once that is the payers' good, so that
#: nobody is turned away for what became of a disk. Oftener than that nothing would be left of the limit.
MOST_BEGUN_ANEW = 1


class Tally:
    """What one token or device has used on one day of the site, and what is held for it now."""

    __slots__ = ("count", "day", "held_micros", "spent_micros")

    def __init__(self, day: int) -> None:
        self.day = day
        self.count = 0
        self.spent_micros = 0
        #: Not the day's: what is held now may be spent on any day.
        self.held_micros = 0

    def count_on(self, day: int) -> int:
        """Uses granted on ``day``. A clock that went back does not begin a day anew."""
        return 0 if day > self.day else self.count

    def micros_on(self, day: int) -> int:
        """Billed on ``day``, and held."""
        return self.held_micros + (0 if day > self.day else self.spent_micros)

    def add(self, day: int, *, count: int, spent_micros: int, held_micros: int) -> None:
        """Count more; a later day begins at nothing."""
        if day > self.day:
            self.day, self.count, self.spent_micros = day, 0, 0
        self.count += count
        self.spent_micros += spent_micros
        self.held_micros += held_micros


class TokenUse:
    """Where and when a token was granted a use last, and the instants of the last few."""

    __slots__ = ("at", "position", "recent")

    def __init__(self) -> None:
        self.at = Instant(0)
        #: None where neither device nor directive said where.
        self.position: Position | None = None
        self.recent: deque[int] = deque(maxlen=MAX_RECENT)

    def add(self, at: Instant) -> None:
        """One more use. What is older than an hour leaves: it is asked about no more."""
        recent = self.recent
        while recent and recent[0] <= at - HOUR_US:
            recent.popleft()
        recent.append(at)

    def put_right(self, at: Instant) -> None:
        """Nothing was used after ``at``, which a trusted clock shows now."""
        self.at = min(self.at, at)
        self.recent = deque((min(each, at) for each in self.recent), maxlen=MAX_RECENT)

    def recent_count(self, now: Instant) -> int:
        """Uses in the hour before ``now``, at most ``MAX_RECENT``."""
        since = now - HOUR_US
        return sum(at > since for at in self.recent)


class Usage:
    """The tables."""

    __slots__ = (
        "begun_count",
        "begun_day",
        "begun_incarnation",
        "day",
        "devices",
        "offline_count",
        "offline_micros",
        "tokens",
        "uses",
    )

    def __init__(self) -> None:
        #: The latest day of which anything was counted.
        self.day = 0
        #: The last day on which the cloud let this gateway begin anew, how often on that day, and the incarnation that began last.
        self.begun_day = 0
        self.begun_count = 0
        self.begun_incarnation = 1
        self.tokens: dict[str, Tally] = {}
        self.devices: dict[str, Tally] = {}
        #: Since the cloud was last heard of: uses granted, and what was billed and held more than before.
        self.offline_count = 0
        self.offline_micros = 0
        self.uses: dict[str, TokenUse] = {}

    def tallies(self, token_id: str, device_id: str, day: int) -> tuple[Tally, Tally]:
        """Both tallies, begun where there are none; a new day drops those that say nothing any more."""
        if day > self.day:
            self.day = day
            self.tokens = {name: tally for name, tally in self.tokens.items() if tally.held_micros}
            self.devices = {name: tally for name, tally in self.devices.items() if tally.held_micros}
        token = self.tokens.get(token_id)
        if token is None:
            token = self.tokens[token_id] = Tally(day)
        device = self.devices.get(device_id)
        if device is None:
            device = self.devices[device_id] = Tally(day)
        return token, device

    def day_at(self, time_zone: str, at: Instant) -> int:
        """The day that uses at ``at`` belong to: one that has begun goes on when the clock goes back, or all it counts would begin anew."""
        return max(self.day, day_of(time_zone, at))

    def put_right(self, time_zone: str, at: Instant) -> None:
        """A trusted clock shows ``at``: a day well after it was begun by a clock that stood ahead. All that it counts was used by now, and the next day is
        the next; else it would last until it came, for years."""
        day = day_of(time_zone, at)
        # One day ahead a clock may be that nobody would call wrong, as at midnight: such a day comes soon.
        if self.day > day + 1:
            self.day = day
            for tally in (*self.tokens.values(), *self.devices.values()):
                tally.day = min(tally.day, day)
        for use in self.uses.values():
            if use.at > at:
                use.put_right(at)

    def begins_anew(self, incarnation: int, day: int) -> None:
        """The cloud has dated the first directive of an incarnation on ``day``; said again it is the same."""
        if incarnation <= self.begun_incarnation:
            return
        self.begun_incarnation = incarnation
        if day > self.begun_day:
            self.begun_day, self.begun_count = day, 0
        self.begun_count += 1

    def is_in_doubt(self, day: int) -> bool:
        """Whether ``day`` is one on which a journal was lost before: nobody knows what was used, and it was begun anew once already."""
        return self.begun_count > MOST_BEGUN_ANEW and day <= self.begun_day

    def contact(self) -> None:
        """The cloud was heard of."""
        self.offline_count = self.offline_micros = 0

    def forget_limits(self) -> None:
        """No limit is set any more: what one counts begins with the directive that sets it."""
        self.tokens = {}
        self.devices = {}
        self.contact()


def day_of(time_zone: str, at: Instant) -> int:
    """The site's business date at ``at``, as days since the year 1."""
    return _local(time_zone, at // QUARTER_US)[0]


def hour_of(time_zone: str, at: Instant) -> int:
    """The hour of the site's day at ``at``: 0 to 23."""
    return _local(time_zone, at // QUARTER_US)[1]


@lru_cache(maxsize=64)
def _local(time_zone: str, quarter: int) -> tuple[int, int]:
    """Every zone's offset is a multiple of a quarter of an hour: date and hour hold for the whole quarter."""
    zone: tzinfo = UTC
    # The registry takes only zones that it knows; a gateway with older zone data goes by UTC, which has days too.
    with suppress(ZoneInfoNotFoundError, ValueError, OSError):
        zone = ZoneInfo(time_zone)
    local = datetime.fromtimestamp(quarter * QUARTER_US // SECOND_US, tz=zone)
    return local.toordinal(), local.hour
