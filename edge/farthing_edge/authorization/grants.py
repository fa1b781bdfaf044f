"""Grants as they are signed, and as leaves show them again: for each use two at least, so what never changes of a register's, and of a session's, is encoded once."""

from functools import lru_cache

from farthing.clock import Instant
from farthing.device.frames import GrantFrame
from farthing.device.messages import FLOOR, Grant, TariffVersion, Witness, encode
from farthing.ids import (
    AUTHORIZATION_ID_SIZE,
    START_ID_SIZE,
    AccountId,
    AuthorizationId,
    DeviceId,
    GatewayId,
    RegisterId,
    StartId,
    TariffId,
)
from farthing.money import Currency
from farthing_edge.authorization.state import FLOOR_FUNDING, Authorization, Told

_UNTOLD = Witness(incarnation=0, start_id=StartId(bytes(START_ID_SIZE)), position=0)
_NO_AUTHORIZATION = AuthorizationId(bytes(AUTHORIZATION_ID_SIZE))


def grant_payload(authorization: Authorization, gateway_id: GatewayId, told: Told) -> bytes:
    """``encode(authorization.grant_that(gateway_id, told))``."""
    if told.readings_due or told.lapses_at is not None:
        # Their instants are in no frame.
        return encode(authorization.grant_that(gateway_id, told))
    tariff = authorization.tariff
    # The first one, of a passage the only one, has nothing in common with another of its authorization.
    frame_of = _frame_once if told.position == authorization.opened_position else _frame
    frame = frame_of(
        authorization.device_id,
        gateway_id,
        authorization.id,
        authorization.intent_epoch,
        authorization.intent_counter,
        tariff.tariff_id,
        tariff.version,
        authorization.register_id,
        authorization.register_epoch,
        authorization.shown_start,
        authorization.currency,
        authorization.report_interval_s,
        authorization.commitment,
        authorization.account_id,
    )
    return frame.payload(
        incarnation=told.incarnation,
        start_id=told.start_id,
        position=told.position,
        at=told.at,
        limit=told.limit - authorization.start + authorization.shown_start,
        held=[(FLOOR if funding == FLOOR_FUNDING else funding, amount) for funding, amount in told.holds],
        net_micros=told.net_micros,
        tax_micros=told.tax_micros,
    )


def _frame_once(
    device_id: DeviceId,
    gateway_id: GatewayId,
    authorization_id: AuthorizationId,
    intent_epoch: int,
    intent_counter: int,
    tariff_id: TariffId,
    tariff_version: int,
    register_id: RegisterId,
    register_epoch: int,
    shown_start: int,
    currency: Currency,
    report_interval_s: int,
    commitment: bytes | None,
    account_id: AccountId,
) -> GrantFrame:
    return _frame_of_register(
        device_id,
        gateway_id,
        tariff_id,
        tariff_version,
        register_id,
        register_epoch,
        currency,
        report_interval_s,
        account_id,
    ).of_another(
        authorization=authorization_id,
        intent_epoch=intent_epoch,
        intent_counter=intent_counter,
        start=shown_start,
        commitment=commitment,
    )


_frame = lru_cache(maxsize=4_096)(_frame_once)  # open authorizations of a large site; half a kilobyte each


@lru_cache(maxsize=4_096)  # a site's registers, each with who pays
def _frame_of_register(
    device_id: DeviceId,
    gateway_id: GatewayId,
    tariff_id: TariffId,
    tariff_version: int,
    register_id: RegisterId,
    register_epoch: int,
    currency: Currency,
    report_interval_s: int,
    account_id: AccountId,
) -> GrantFrame:
    return GrantFrame(
        Grant(
            recipient=device_id,
            gateway=gateway_id,
            witness=_UNTOLD,
            at=Instant(0),
            authorization=_NO_AUTHORIZATION,
            intent_epoch=0,
            intent_counter=0,
            tariff=TariffVersion(tariff_id=tariff_id, version=tariff_version),
            register_id=register_id,
            register_epoch=register_epoch,
            start=0,
            limit=0,
            held=(),
            currency=currency,
            net_micros=0,
            tax_micros=0,
            report_interval_s=report_interval_s,
            commitment=None,
            account=account_id,
        )
    )
