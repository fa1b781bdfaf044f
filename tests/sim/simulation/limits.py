"""Usage limits, counted again from what gateways write down: by token and device, day by day of the site.

Rule 1: whenever a gateway holds money for a use, or bills a passage, all that was billed on the day and all that is held is within the limit.
Rule 2: what a day has in all exceeds its limit by no more than P1 lets a use exceed what is held for it: by what was billed beyond its hold
(it could not be stopped, or it had been told of more before the limit shrank), and by what was held for a use that came from a lost journal.
Rule 3: over all journals of a gateway, as many uses begin in a day as the limit says, once more where a journal was lost or went back.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from farthing.clock import SECOND_US
from farthing.refusal import Refusal
from farthing_edge.authorization.events import (
    Adopted,
    DirectiveApplied,
    Disclaimed,
    Granted,
    HeadRecorded,
    IntentRefused,
    Metered,
    Receipted,
    Settled,
)
from simulation.cast import TIME_ZONE, Terms
from simulation.history import PromiseBroken

_QUARTER_S = 900
#: All that says something about limits: most entries do not.
_COUNTED = frozenset(
    {Adopted, DirectiveApplied, Disclaimed, Granted, HeadRecorded, IntentRefused, Metered, Receipted, Settled}
)


@lru_cache(maxsize=256)
def _date(quarter: int) -> int:
    return datetime.fromtimestamp(quarter * _QUARTER_S, tz=ZoneInfo(TIME_ZONE)).toordinal()


def date_of(at_us: int) -> int:
    """The site's date: every offset of its zone is a multiple of a quarter of an hour."""
    return _date(at_us // SECOND_US // _QUARTER_S)


@dataclass(slots=True)
class Day:
    """What one token or one device has used on the latest day that a journal has seen it."""

    date: int = 0
    count: int = 0
    spent_micros: int = 0
    held_micros: int = 0
    #: Billed beyond its hold on this day; and held for uses that a journal before this one had granted.
    beyond_micros: int = 0
    taken_over_micros: int = 0

    def at(self, date: int) -> Day:
        """This, on ``date``."""
        if date > self.date:
            self.date, self.count, self.spent_micros, self.beyond_micros = date, 0, 0, 0
        return self


#: A token or a device.
Who = tuple[str, str]


@dataclass(slots=True)
class Counted:
    """One journal's counts."""

    date: int = 0
    days: defaultdict[Who, Day] = field(default_factory=lambda: defaultdict(Day))
    #: Authorization → whose it is, and what is held for it.
    uses: dict[bytes, tuple[tuple[Who, ...], int]] = field(default_factory=dict)
    offline_count: int = 0
    offline_micros: int = 0


class Limits:
    """Sees what journals say; raises ``PromiseBroken``."""

    def __init__(self, terms: Terms, tokens: dict[bytes, str], counted: Counter[str]) -> None:
        self._terms = terms
        self._are_there = terms.are_limited
        #: Reference → whose token.
        self._tokens = tokens
        self._seen = counted
        self._journals: defaultdict[str, Counted] = defaultdict(Counted)
        #: (gateway, whose, date) → uses that began, over all its journals.
        self._begun: Counter[tuple[str, Who, int]] = Counter()

    def replaced(self, gateway: str, entries: Iterable[Any]) -> None:
        """Another journal stands there: it has counted what it says."""
        self._journals[gateway] = Counted()
        for event in entries:
            if self._are_there and event.__class__ in _COUNTED:
                self._count(self._journals[gateway], event)

    def journaled(self, gateway: str, event: Any, *, lost: int) -> None:
        """``gateway`` has written an entry; it has lost ``lost`` journals so far."""
        if not self._are_there or event.__class__ not in _COUNTED:
            return
        if isinstance(event, IntentRefused):
            self._seen[f"refused: {Refusal(event.refusal).name}"] += event.refusal // 100 == Refusal.LIMIT_PER_DAY.rule
            return
        counted = self._journals[gateway]
        before = counted.date
        found = self._count(counted, event)
        self._seen["days that ended under limits"] += 0 < before < counted.date
        if found is None:
            return
        whose, is_new, adds = found
        for who in whose:
            self._check_day(gateway, who, counted.days[who], adds=adds)
            if is_new:
                self._check_count(gateway, who, counted, lost)
        if is_new and adds and not event.online:
            self._check_offline(gateway, counted)

    def _count(self, counted: Counted, event: Any) -> tuple[tuple[Who, ...], bool, bool] | None:
        """Count what ``event`` says: whose it is, whether it begins a use by the rules, and whether it holds or bills by them."""
        if isinstance(event, DirectiveApplied | HeadRecorded | Receipted):
            if isinstance(event, DirectiveApplied) and event.passed_over:
                return None
            counted.offline_count = counted.offline_micros = 0
            return None
        if isinstance(event, Granted):
            token = self._tokens.get(event.token_key)
            # A passage that a lost journal had given, and that is shown, is billed whatever the limits are.
            shown = token is None
            whose: tuple[Who, ...] = (("device", event.device),)
            whose = whose if token is None else (("token", token), *whose)
            self._take(counted, event, whose, begins=True, beyond=shown)
            if event.online:
                counted.offline_count = counted.offline_micros = 0
            return whose, not shown, not shown and bool(event.holds or event.charges)
        if isinstance(event, Adopted):
            token = self._tokens.get(event.token_key)
            if token is None:
                return None  # a standing one
            whose = (("token", token), ("device", event.device))
            held = sum(amount for _, amount in event.holds)
            counted.uses[event.authorization] = whose, held
            counted.offline_micros += held
            for who in whose:
                day = counted.days[who]
                day.held_micros += held
                day.taken_over_micros += held
            return whose, False, False
        if isinstance(event, Metered | Settled) and event.authorization in counted.uses:
            whose, _ = counted.uses[event.authorization]
            self._take(counted, event, whose, begins=False, beyond=False)
            return whose, False, bool(event.holds)
        if isinstance(event, Disclaimed) and event.authorization in counted.uses:
            whose, held = counted.uses.pop(event.authorization)
            counted.offline_micros -= held
            for who in whose:
                counted.days[who].held_micros -= held
            return whose, False, False
        return None

    @staticmethod
    def _take(counted: Counted, event: Any, whose: tuple[Who, ...], *, begins: bool, beyond: bool) -> None:
        counted.date = max(counted.date, date_of(event.decided_at))
        charged = sum(charge.net_micros + charge.tax_micros for charge in event.charges)
        _, held_before = counted.uses.get(event.authorization, (whose, 0))
        held = sum(amount for _, amount in event.holds)
        counted.uses[event.authorization] = whose, held
        # A passage is billed at once: its yes is a decision, so all of it is within the limit.
        over = charged if beyond else 0 if begins else max(0, charged - held_before)
        counted.offline_count += begins
        counted.offline_micros += charged + held - held_before
        for who in whose:
            day = counted.days[who].at(counted.date)
            day.count += begins
            day.spent_micros += charged
            day.held_micros += held - held_before
            day.beyond_micros += over

    def _check_day(self, gateway: str, who: Who, day: Day, *, adds: bool) -> None:
        kind, _ = who
        most = self._terms.limit_token_day_micros if kind == "token" else self._terms.limit_device_day_micros
        if not most:
            return
        self._seen[f"decisions under the limit of a {kind}'s day"] += 1
        used = day.spent_micros + day.held_micros
        if adds and used > most:
            raise PromiseBroken(f"limit: {gateway} holds or bills for {who} where {used} of {most} are used: {day}")
        if used > most + day.beyond_micros + day.taken_over_micros:
            raise PromiseBroken(f"limit: {who} has used {used} of {most} at {gateway}, not beyond holds: {day}")

    def _check_count(self, gateway: str, who: Who, counted: Counted, lost: int) -> None:
        kind, _ = who
        most = self._terms.limit_token_day_count if kind == "token" else self._terms.limit_device_day_count
        self._begun[gateway, who, counted.date] += 1
        if not most:
            return
        self._seen[f"uses under the count of a {kind}'s day"] += 1
        day, ever = counted.days[who], self._begun[gateway, who, counted.date]
        # The day of a lost journal begins anew, once.
        if day.count > most or ever > most * (1 + min(lost, 1)):
            raise PromiseBroken(
                f"limit: {gateway} gives {who} use {day.count}, {ever} over all its journals, {most} a day are allowed"
            )

    def _check_offline(self, gateway: str, counted: Counted) -> None:
        terms = self._terms
        self._seen["uses begun offline under limits"] += 1
        if terms.limit_offline_count and counted.offline_count > terms.limit_offline_count:
            raise PromiseBroken(f"limit: {gateway} gives use {counted.offline_count} since it heard of the ledger")
        if terms.limit_offline_micros and counted.offline_micros > terms.limit_offline_micros:
            raise PromiseBroken(f"limit: {gateway} gives {counted.offline_micros} since it heard of the ledger")
