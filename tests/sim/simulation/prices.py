"""What is due of a use, computed from the statements that a gateway has written down, in their order, by the contract alone.

Rule 1: a price is a function of quantities and of the boundary readings that were heard; which were heard, the journal says, what they say,
their device has signed. Nothing here reads a sum, a time or a place that a core has worked out.
Rule 2: time goes on: a statement whose clock went back stands where the latest heard before it stood.
Rule 3: a journal that was lost has heard nothing: what it hears from then on is priced from the first statement. An end that another gateway
carries is priced from its first statement and itself.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, NamedTuple

from farthing.clock import Instant
from farthing.device import cose
from farthing.device import messages as m
from farthing.device.messages import Chain, End, Intent, Reading, Statement
from farthing.tariff import Placed, Tariff, Use, price
from farthing_edge.authorization.events import Adopted, BaselineTaken, EndCarried, Granted, Metered, Settled
from simulation.cast import MODULUS, TIME_ZONE, tariff


class Point(NamedTuple):
    """What a statement says of its register; ``closing``: it is the last."""

    value: int
    at: Instant
    closing: bool


def point_of(statement: Statement) -> Point:
    """A one-shot intent says what it will have used."""
    value, at = statement.register.unrolled(MODULUS), Instant(statement.at)
    if isinstance(statement, Intent):
        return Point(value + (statement.one_shot or 0), at, statement.one_shot is not None)
    return Point(value, at, isinstance(statement, End))


@dataclass(slots=True)
class Heard:
    """One authorization as far as one journal has heard of it."""

    tariff: Tariff
    unit: str
    start: int
    started_at: Instant
    latest: Instant
    placed: Placed | None = None
    placed_to: int = 0

    def hear(self, point: Point) -> tuple[int, int]:
        """The next statement: (net, tax) due by it in all, micros."""
        self.latest = max(self.latest, point.at)
        use = Use(
            unit=self.unit,
            start=self.start,
            end=point.value,
            started_at=self.started_at,
            ended_at=self.latest,
            placed=self.placed,
            placed_to=self.placed_to,
            time_zone=TIME_ZONE,
        )
        priced = price(self.tariff, use, closing=point.closing)
        self.placed, self.placed_to = priced.placed, point.value
        return priced.net_micros, priced.tax_micros


class Prices:
    """What was ever due, by every journal that heard of it."""

    def __init__(self, units: dict[str, str]) -> None:
        #: Device → what its register counts.
        self._units = units
        #: Gateway → authorization → as its journal has heard of it.
        self._heard: defaultdict[str, dict[bytes, Heard]] = defaultdict(dict)
        #: Authorization → the tariff it was given under, and who pays, as any journal or a grant says.
        self.tariffs: dict[bytes, str] = {}
        self.payers: dict[bytes, str] = {}
        #: Authorizations whose end somebody has carried.
        self.carried: set[bytes] = set()
        #: (authorization, value, closing) → what was due there: (net, tax), micros.
        self._due: defaultdict[tuple[bytes, int, bool], set[tuple[int, int]]] = defaultdict(set)

    def heard(self, gateway: str, event: Any) -> None:
        """A journal's entry: what it opens, what it hears, what it carries."""
        if isinstance(event, Granted | BaselineTaken | Adopted):
            self.tariffs[event.authorization], self.payers[event.authorization] = event.tariff_id, event.account
            first = _statement(event.statement)
            heard = self._heard[gateway][event.authorization] = self._begun(first, event.tariff_id)
            point = point_of(first)
            # Nothing is used by it, or, if it is one-shot, everything.
            due = heard.hear(point) if point.closing else (0, 0)
            self._due[event.authorization, point.value, point.closing].add(due)
        elif isinstance(event, Metered | Settled):
            statement = _statement(event.statement)
            point = point_of(statement)
            if isinstance(event, Settled) and event.tick_index:
                assert isinstance(statement, Chain)
                point = point._replace(value=point.value + event.tick_index * statement.unit_per_tick)
            # People may have decided that it was the last.
            point = point._replace(closing=point.closing or event.closing)
            due = self._heard[gateway][event.authorization].hear(point)
            self._due[event.authorization, point.value, point.closing].add(due)
        elif isinstance(event, EndCarried):
            first, end = _statement(event.statements[0]), _statement(event.statements[-1])
            point = point_of(end)
            self.carried.add(event.authorization)
            due = self._begun(first, _tariff_of(event, first)).hear(point)
            self._due[event.authorization, point.value, point.closing].add(due)

    def forget(self, gateway: str) -> None:
        """Its journal is another one; what was due by the old one may have been claimed."""
        self._heard.pop(gateway, None)

    def due(self, authorization: bytes, value: int, *, closing: bool) -> set[tuple[int, int]]:
        """All that was due where the register stood at ``value``."""
        return self._due.get((authorization, value, closing), set())

    def ever_due(self, authorization: bytes) -> set[tuple[int, int]]:
        """All that was ever due of it, wherever its register stood."""
        return set().union(*(due for (name, _, _), due in self._due.items() if name == authorization))

    def _begun(self, first: Statement, tariff_id: str) -> Heard:
        start, at = first.register.unrolled(MODULUS), Instant(first.at)
        return Heard(
            tariff=tariff(tariff_id),
            unit=self._units[first.device],
            start=start,
            started_at=at,
            latest=at,
        )


def _tariff_of(carried: EndCarried, first: Statement) -> str:
    """As the grant says; without one, as a standing authorization's readings do."""
    if carried.grant:
        return m.decode_grant(cose.decode_sign1(carried.grant).payload).tariff.tariff_id
    assert isinstance(first, Reading)
    return first.tariff.tariff_id


def _statement(signed: bytes) -> Statement:
    return m.decode_statement(cose.decode_sign1(signed).payload)
