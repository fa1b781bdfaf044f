"""What the rest of the daemon may know of the gateway's state. Nothing here changes anything."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from farthing.clock import SECOND_US, Instant
from farthing.device.cose import VerifyingKey
from farthing.device.reject import MessageError
from farthing.ids import DeviceId, GatewayId
from farthing_edge.authorization.applying import missed_readings
from farthing_edge.authorization.state import GatewayState, SiteKeyRow

#: Verifying keys kept parsed: a site's devices, with room for rotation.
_KEYS_KEPT = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceView:
    """A device as the directives describe it; ``status`` and ``profile`` are the numbers of ``directive.proto``."""

    id: DeviceId
    #: None when the directive's key is no P-256 key: nothing of this device verifies.
    key: VerifyingKey | None
    status: int
    profile: int
    device_epoch: int
    static_dh_x: bytes
    static_dh_kid: bytes
    receipted_counter: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Overdue:
    """A use of which nothing was heard for longer than it should be: since when, and how many readings are missing."""

    authorization: str
    device: DeviceId
    heard_at_us: Instant
    missed: int


@lru_cache(maxsize=_KEYS_KEPT)
def _verifying_key(spki: bytes) -> VerifyingKey | None:
    try:
        return VerifyingKey.from_spki(spki)
    except (MessageError, ValueError):
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockView:
    """What a gateway knows of the time; business seconds."""

    trusted: bool
    #: How much later it is at least than its clock shows.
    behind_s: int
    #: Steps of the wall clock since the journal began, and the last one.
    steps: int
    last_step_s: float
    #: How far ahead of a trusted clock the cloud's last word was that was not believed; 0: it is believed.
    doubted_s: int


class GatewayView:
    """A window on the engine's state, as of the last group it decided."""

    def __init__(self, state: Callable[[], GatewayState], position: Callable[[], int]) -> None:
        # The engine replaces its state when it has to rebuild it from the journal, and is ahead of what is durable.
        self._current = state
        self._position = position

    @property
    def _state(self) -> GatewayState:
        return self._current()

    @property
    def gateway_id(self) -> GatewayId:
        """Who we are."""
        return self._state.gateway_id

    @property
    def operator_id(self) -> str:
        """Empty before the first directive."""
        return self._state.operator_id

    @property
    def site_id(self) -> str:
        """Empty before the first directive."""
        return self._state.site_id

    @property
    def time_zone(self) -> str:
        """IANA name; empty before the first directive."""
        return self._state.time_zone

    @property
    def incarnation(self) -> int:
        """0 before the first directive."""
        return self._state.incarnation

    @property
    def start_id(self) -> bytes:
        """Of this process: 16 random bytes."""
        return self._state.start_id

    @property
    def position(self) -> int:
        """Of the last durable entry."""
        return self._position()

    @property
    def directive_version(self) -> int:
        """Of the last directive applied."""
        return self._state.directive_version

    @property
    def directive_hash(self) -> bytes:
        """SHA-256 of the last directive applied; zeros before the first."""
        return self._state.directive_hash

    @property
    def head_at_us(self) -> int:
        """Business instant at which the chain's head was last known to be ours."""
        return self._state.head_at

    @property
    def clock(self) -> ClockView:
        """What is known of the time."""
        clock = self._state.clock
        return ClockView(
            trusted=clock.trusted,
            behind_s=-(-clock.ahead_us // SECOND_US),
            steps=clock.steps,
            last_step_s=clock.stepped_us / SECOND_US,
            doubted_s=clock.doubted_us // SECOND_US,
        )

    @property
    def sealed_sequence(self) -> int:
        """The highest batch sealed in this incarnation."""
        return self._state.sequence

    @property
    def receipted_sequence(self) -> int:
        """The highest batch receipted in this incarnation."""
        return self._state.receipted_sequence

    @property
    def last_receipt(self) -> tuple[bytes, bytes, bytes]:
        """The last receipt, its signature and key id; empty before the first."""
        return self._state.last_receipt

    @property
    def ledger_epoch(self) -> int:
        """The ledger's epoch, as the last directive said that named one."""
        return self._state.ledger_epoch

    @property
    def receipt_keys(self) -> tuple[bytes, ...]:
        """SubjectPublicKeyInfo (DER) of the keys that sign receipts; empty before the first directive."""
        return self._state.receipt_keys

    @property
    def online(self) -> bool:
        """Whether the uplink said so last."""
        return self._state.online

    @property
    def authorizing(self) -> bool:
        """Whether new authorizations are given at all."""
        return not self._state.not_authorizing_reason

    @property
    def not_authorizing_reason(self) -> str:
        """Why not; empty when they are."""
        return self._state.not_authorizing_reason

    @property
    def suspects_rollback(self) -> bool:
        """Whether a witness proved that the journal went backwards."""
        return bool(self._state.rollback_suspected)

    @property
    def is_complete(self) -> bool:
        """Whether all directives have once been heard."""
        return self._state.is_complete

    def device(self, device_id: str) -> DeviceView | None:
        """A device, or None when no directive named it."""
        device = self._state.devices.get(device_id)
        if device is None:
            return None
        return DeviceView(
            id=device.id,
            key=_verifying_key(device.statement_key),
            status=device.status,
            profile=device.profile,
            device_epoch=device.epoch,
            static_dh_x=device.static_dh_x,
            static_dh_kid=device.static_dh_kid,
            receipted_counter=self._state.receipted_counter(device),
        )

    def statement_key(self, device_id: str) -> VerifyingKey | None:
        """The key of a device's statements; None when no directive named the device, or its key is none."""
        device = self._state.devices.get(device_id)
        return None if device is None else _verifying_key(device.statement_key)

    def device_ids(self) -> Iterable[str]:
        """Every device that a directive named."""
        return tuple(self._state.devices)

    def site_keys(self) -> tuple[SiteKeyRow, ...]:
        """The site's HMAC keys as they came, newest last."""
        return tuple(self._state.site_keys[epoch] for epoch in sorted(self._state.site_keys))

    def newest_site_key(self) -> SiteKeyRow | None:
        """The key that token refs are made with; None before the first."""
        keys = self._state.site_keys
        return keys[max(keys)] if keys else None

    def refusals(self) -> dict[int, int]:
        """Refusals that were journaled, by number, since the journal began."""
        return dict(self._state.totals.refusals)

    def directive_faults(self) -> tuple[tuple[int, str], ...]:
        """(version, fault) of the last directives that could not be obeyed."""
        return tuple(self._state.directive_faults)

    def counts(self) -> dict[str, int]:
        """Numbers for people and metrics; amounts in micros."""
        state = self._state
        return {
            "devices": len(state.devices),
            "accounts": len(state.accounts),
            "tokens": len(state.tokens),
            "tariffs": len(state.tariffs),
            "open_authorizations": state.open_authorizations,
            "lapsed_authorizations": len(state.lapsed),
            "lapsed_held_micros": sum(sum(state.authorizations[name].holds.values()) for name in state.lapsed),
            "open_quotas": len(state.quotas),
            "quota_free_micros": sum(q.free_micros for q in state.quotas.values() if not q.stopped),
            "quota_held_micros": sum(q.held_micros for q in state.quotas.values()),
            "quota_unspent_micros": sum(q.unspent_micros for q in state.quotas.values()),
            "floor_taken_micros": state.floor.total_micros,
            "quota_requests": len(state.requests),
            "records": state.records,
            "unreceipted_records": state.unreceipted_records,
            "unsealed_records": len(state.unsealed),
            "unsealed_micros": state.unsealed_micros,
            "unreceipted_batches": len(state.batches),
            "granted_online": state.totals.granted_online,
            "granted_offline": state.totals.granted_offline,
            "refused": sum(state.totals.refusals.values()),
            "parked": state.parked,
            "parked_undecided": len(state.parked_statements),
            "set_aside": len(state.set_aside),
        }

    def overdue(self, now: Instant) -> list[Overdue]:
        """Open authorizations whose reading is due and has not come, the longest silent first."""
        found = [
            Overdue(
                authorization=authorization.id.hex(),
                device=authorization.device_id,
                heard_at_us=authorization.heard_at,
                missed=missed,
            )
            for authorization in self._state.authorizations.values()
            if not authorization.closed
            # One that ticks reads nothing; it is heard by its ticks.
            and (missed := missed_readings(now - authorization.heard_at, authorization.report_interval_s))
        ]
        found.sort(key=lambda each: each.heard_at_us)
        return found
