"""What happens from outside: payers come, people do things, parts fail. Each is one line of a story and can be taken out alone."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal, TypeAlias

from simulation.cast import Cast, DeviceRole, M

#: Moments at which a gateway's process can die.
Moment = Literal["at once", "before its commit", "after its commit, before it speaks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """Something that happens ``at_s`` seconds after the start."""

    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrive(Action):
    """A payer comes to a device with a token and asks the gateways in this order."""

    device: str
    account: str
    gateways: tuple[str, ...]
    target: int
    rate_per_hour: int
    stay_s: int
    patience_s: int | None
    elsewhere_s: int | None
    wanted: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw(Action):
    """What hangs behind a standing meter draws this much from now on."""

    device: str
    rate_per_hour: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashGateway(Action):
    """Its process dies in its next work at this moment and comes back later."""

    gateway: str
    moment: Moment
    down_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashDevice(Action):
    """Its power is cut: what it had written down is there when it comes back."""

    device: str
    down_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashLedger(Action):
    """The ledger's process dies: what was committed stays, what was on its way is lost."""

    down_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreLedger(Action):
    """The ledger's database is backed up, and ``after_s`` seconds later replaced by that backup. ``noticed``: a person says so at once."""

    after_s: float
    down_s: float
    noticed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut(Action):
    """Nothing gets through between two parties for a while."""

    one: str
    other: str
    for_s: float


#: What becomes of a gateway's token when its disk is restored: it remembers what it knew, or is restored with the disk.
Token = Literal["kept", "restored"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreDisk(Action):
    """A gateway's disk is replaced by a copy of what it was ``back_s`` seconds ago."""

    gateway: str
    back_s: float
    token: Token
    down_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoseDisk(Action):
    """A gateway's journal is gone; it begins with an empty one. The lost one is kept somewhere. ``token`` restored: as new, it remembers nothing."""

    gateway: str
    down_s: float
    token: Token = "kept"


@dataclass(frozen=True, slots=True, kw_only=True)
class FindDisk(Action):
    """The journal that was lost turns up and is put back in place of the one that began since."""

    gateway: str
    down_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone(Action):
    """A gateway is gone for good, with its disk: what its devices still have to say must reach the ledger through others."""

    gateway: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ForceVoid(Action):
    """Two persons decide that a gateway is gone: every hold of it ends."""

    gateway: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JumpClock(Action):
    """The clock of a device or gateway is suddenly this much ahead of what it was (or behind)."""

    who: str
    by_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Clone(Action):
    """A device's element is copied, with all it knows; the copy serves at another gateway."""

    device: str
    gateway: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspend(Action):
    """A device is suspended, then active again."""

    device: str
    for_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaceRegister(Action):
    """A device gets another meter, which shows ``value``; the operator says so to its gateways ``told_s`` seconds later."""

    device: str
    value: int
    told_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Deny(Action):
    """A payer's token is denied everywhere, then allowed again."""

    account: str
    for_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Freeze(Action):
    """A payer's account is suspended at the ledger, then active again."""

    account: str
    for_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall(Action):
    """Quotas are called back; empty names stand for all."""

    gateway: str
    account: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TopUp(Action):
    """Money comes in."""

    account: str
    amount_micros: int


Any: TypeAlias = (
    Arrive
    | Draw
    | CrashGateway
    | CrashDevice
    | CrashLedger
    | RestoreLedger
    | Cut
    | RestoreDisk
    | LoseDisk
    | FindDisk
    | ForceVoid
    | Gone
    | JumpClock
    | Clone
    | Suspend
    | ReplaceRegister
    | Deny
    | Freeze
    | Recall
    | TopUp
)

KINDS: dict[str, type[Action]] = {
    kind.__name__: kind
    for kind in (
        Arrive,
        Draw,
        CrashGateway,
        CrashDevice,
        CrashLedger,
        RestoreLedger,
        Cut,
        RestoreDisk,
        LoseDisk,
        FindDisk,
        ForceVoid,
        Gone,
        JumpClock,
        Clone,
        Suspend,
        ReplaceRegister,
        Deny,
        Freeze,
        Recall,
        TopUp,
    )
}


def draw_actions(rng: Random, cast: Cast) -> tuple[Action, ...]:
    """What happens in this seed, in order of time."""
    length_s = cast.minutes * 60
    actions: list[Action] = []

    def at() -> float:
        return round(rng.uniform(0, length_s), 3)

    for device in cast.devices:
        actions += _use_of(rng, cast, device, length_s)
    for gateway in cast.gateways:
        moments: tuple[Moment, ...] = ("at once", "before its commit", "after its commit, before it speaks")
        actions += [
            CrashGateway(
                at_s=at(), gateway=gateway, moment=rng.choice(moments), down_s=round(rng.choice((1, 5, 60, 150)), 3)
            )
            for _ in range(rng.choice((0, 1, 3, 6)))
        ]
        actions += [
            Cut(at_s=at(), one=gateway, other="ledger", for_s=round(rng.uniform(20, length_s / 2), 3))
            for _ in range(rng.choice((0, 1, 3)))
        ]
        actions += _disks_of(rng, gateway, length_s)
        if rng.random() < 0.04:
            actions.append(ForceVoid(at_s=at(), gateway=gateway))
        if rng.random() < 0.15:
            actions.append(JumpClock(at_s=at(), who=gateway, by_s=rng.choice((-3_600, -60, 60, 3_600))))
    for device in cast.devices:
        actions += [
            CrashDevice(at_s=at(), device=device.name, down_s=round(rng.uniform(1, 120), 3))
            for _ in range(rng.choice((0, 0, 1, 2)))
        ]
        actions += [
            Cut(at_s=at(), one=device.name, other=gateway, for_s=round(rng.uniform(20, 150), 3))
            for gateway in device.gateways
            for _ in range(rng.choice((0, 1)))
        ]
        if rng.random() < 0.1:
            actions.append(JumpClock(at_s=at(), who=device.name, by_s=rng.choice((-600, -5, 5, 600))))
        if rng.random() < 0.1:
            actions.append(Suspend(at_s=at(), device=device.name, for_s=round(rng.uniform(30, 150), 3)))
        if rng.random() < 0.15:
            value, told_s = rng.choice((0, 0, device.value)), round(rng.choice((0, 2, 60)) * rng.random(), 3)
            actions.append(ReplaceRegister(at_s=at(), device=device.name, value=value, told_s=told_s))
        elsewhere = [gateway for gateway in cast.gateways if gateway not in device.gateways]
        if device.profile == "one-shot":
            # At one gateway the copies fight over counters: only one of them is heard, and no use is billed twice.
            elsewhere = list(cast.gateways)
        if device.profile != "standing" and elsewhere and rng.random() < 0.25:
            actions.append(Clone(at_s=at(), device=device.name, gateway=rng.choice(elsewhere)))
    if rng.random() < 0.4:
        actions.append(CrashLedger(at_s=at(), down_s=round(rng.uniform(5, 120), 3)))
    gone = _may_be_gone(cast, actions)
    if gone and rng.random() < 0.5:
        actions.append(Gone(at_s=at(), gateway=rng.choice(gone)))
    accounts = [account.name for account in cast.accounts]
    purses = [account.name for account in cast.purses]
    for _ in range(rng.choice((0, 1, 3))):
        actions.append(TopUp(at_s=at(), account=rng.choice(accounts), amount_micros=rng.randint(1, 3 * M)))
        actions.append(Recall(at_s=at(), gateway=rng.choice(cast.gateways), account=rng.choice(purses)))
    if rng.random() < 0.2:
        actions.append(Deny(at_s=at(), account=rng.choice(accounts), for_s=round(rng.uniform(20, 150), 3)))
    if rng.random() < 0.2:
        actions.append(Freeze(at_s=at(), account=rng.choice(purses), for_s=round(rng.uniform(20, 150), 3)))
    faults = (LoseDisk, RestoreDisk, FindDisk)
    gone_s = max((action.at_s for action in actions if isinstance(action, Gone)), default=None)
    if not any(isinstance(action, faults) for action in actions) and rng.random() < (0.9 if gone_s is None else 0.4):
        down_s, noticed = rng.choice((1.0, 30.0)), rng.random() < 0.5
        # So the database has all that a gateway was told and said which is gone.
        at_s = at() if gone_s is None else round(rng.uniform(gone_s, length_s), 3)
        # Before the end, when everything is called back: a recall that is lost with the database is nobody's to say again.
        after_s = round(min(rng.choice((5, 60, length_s)) * rng.random(), length_s - at_s), 3)
        actions.append(RestoreLedger(at_s=at_s, after_s=after_s, down_s=down_s, noticed=noticed))
    actions += _disks_beside_a_restore(rng, cast, actions, length_s)
    return tuple(sorted(actions, key=lambda action: action.at_s))


def _disks_beside_a_restore(rng: Random, cast: Cast, actions: list[Action], length_s: int) -> list[Action]:
    """A database and a disk go wrong at one time: most often while the restored ledger still waits for gateways."""
    if any(isinstance(action, Gone) for action in actions) or rng.random() < 0.75:
        return []
    out: list[Action] = []
    restored = next((action for action in actions if isinstance(action, RestoreLedger)), None)
    if restored is None:
        at_s = round(rng.uniform(0, 0.7) * length_s, 3)
        after_s = round(min(rng.choice((1, 30, length_s)) * rng.random(), 0.8 * length_s - at_s), 3)
        restored = RestoreLedger(at_s=at_s, after_s=after_s, down_s=rng.choice((1.0, 30.0)), noticed=rng.random() < 0.5)
        out.append(restored)
    for gateway in rng.sample(cast.gateways, rng.choice((1, 1, len(cast.gateways)))):
        at_s = restored.at_s + restored.after_s + rng.choice((-5, 5, 40, 90)) * rng.random()
        at_s, down_s = round(min(max(0.0, at_s), length_s), 3), rng.choice((1.0, 30.0))
        token: Token = rng.choice(("kept", "restored"))
        if rng.random() < 0.5:
            out.append(LoseDisk(at_s=at_s, gateway=gateway, down_s=down_s, token=token))
            if rng.random() < 0.4:
                found_s = round(rng.uniform(at_s, length_s), 3)
                out.append(FindDisk(at_s=found_s, gateway=gateway, down_s=rng.choice((1.0, 30.0))))
        else:
            back_s = round(rng.choice((5, 60, length_s)) * rng.random(), 3)
            out.append(RestoreDisk(at_s=at_s, gateway=gateway, back_s=back_s, token=token, down_s=down_s))
    return out


def _may_be_gone(cast: Cast, actions: list[Action]) -> list[str]:
    """Gateways each of whose devices can speak to another one: what else is lost with it is nobody's to give back."""
    copied_to = {action.gateway for action in actions if isinstance(action, Clone)}
    return [
        gateway
        for gateway in cast.gateways
        if gateway not in copied_to
        and all(len(device.gateways) > 1 for device in cast.devices if gateway in device.gateways)
    ]


def _disks_of(rng: Random, gateway: str, length_s: int) -> list[Action]:
    """What becomes of a gateway's disk."""
    out: list[Action] = []
    at_s = round(rng.uniform(0, length_s), 3)
    down_s = rng.choice((1.0, 30.0))
    lot = rng.random()
    if lot < 0.17:
        token: Token = rng.choice(("kept", "restored"))
        if rng.random() < 0.5:
            # Far back, and with time left: what was open then is over by now, and its device is asked after it.
            at_s = round(rng.uniform(0.4, 0.7) * length_s, 3)
            back_s = round(rng.uniform(0.2, 0.6) * length_s, 3)
        else:
            back_s = round(rng.choice((2, 30, 120)) * rng.random(), 3)
        out.append(RestoreDisk(at_s=at_s, gateway=gateway, back_s=back_s, token=token, down_s=down_s))
    elif lot < 0.32:
        out.append(LoseDisk(at_s=at_s, gateway=gateway, down_s=down_s))
        if rng.random() < 0.6:
            found_s = round(rng.uniform(at_s, length_s), 3)
            out.append(FindDisk(at_s=found_s, gateway=gateway, down_s=down_s))
    return out


def _use_of(rng: Random, cast: Cast, device: DeviceRole, length_s: int) -> list[Action]:
    """Payers one after the other; who finds the register in use waits."""
    if device.profile == "standing":
        return [
            Draw(at_s=round(rng.uniform(0, length_s / 2), 3), device=device.name, rate_per_hour=rate)
            for rate in (rng.randint(500, device.rated_per_hour), rng.choice((0, device.rated_per_hour)))
        ]
    one_shot = device.profile == "one-shot"
    out: list[Action] = []
    at_s = rng.uniform(1, 20)
    while at_s < length_s:
        stay_s = 0 if one_shot else rng.choice((10, 60, 200))
        gateways = list(device.gateways)
        rng.shuffle(gateways)
        most = max(1, device.rated_per_hour * max(stay_s, 60) // 3600)
        out.append(
            Arrive(
                at_s=round(at_s, 3),
                device=device.name,
                account=rng.choice(cast.accounts).name,
                gateways=tuple(gateways),
                target=1 if one_shot else rng.choice((most * 3, most, max(1, most // 2))),
                rate_per_hour=device.rated_per_hour,
                stay_s=stay_s,
                patience_s=None if one_shot else rng.choice((None, 10, 60)),
                elsewhere_s=None if one_shot or len(gateways) == 1 else rng.choice((3, 20)),
                wanted=None if one_shot else rng.choice((None, None, most, 500)),
            )
        )
        at_s += stay_s + rng.choice((2, 20, 90))
    return out
