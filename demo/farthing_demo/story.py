"""What is written down while the run goes on, for the live view and the report."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySample:
    """One look at a gateway's status; counts are since the beginning of its journal."""

    gateway: str
    online: bool
    alive: bool
    granted_online: int
    granted_offline: int
    refused: int
    records: int
    #: Usage records that the cloud has not receipted.
    backlog: int
    sealed: int
    receipted: int
    proven: int
    open_authorizations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One look at everything, ``at_s`` seconds of real time after traffic began."""

    at_s: float
    gateways: tuple[GatewaySample, ...]
    posted_micros: int
    sessions: int
    devices: int
    open_sessions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """Something the demo did or saw."""

    at_s: float
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """The uplinks were away from ``from_s`` to ``to_s``."""

    kind: str
    from_s: float
    to_s: float


@dataclass(slots=True, kw_only=True)
class Story:
    """The run so far."""

    samples: list[Sample] = field(default_factory=list)
    happenings: list[Happening] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
