"""What an entry opens: an authorization as it was before anything is billed. Deciding, applying and showing detail again share it."""

from farthing.clock import Instant
from farthing.device.messages import FLOOR, TariffVersion, decode_grant
from farthing.ids import AccountId, AuthorizationId, DeviceId, RegisterId, TariffId
from farthing.money import Currency
from farthing_edge.authorization import events
from farthing_edge.authorization.state import FLOOR_FUNDING, Authorization, Told


def opened(event: events.Granted | events.BaselineTaken | events.Adopted, position: int) -> Authorization:
    """The authorization that the entry at ``position`` opens, before anything is billed here."""
    baseline = event.__class__ is events.BaselineTaken
    said_start = event.start if event.said_start < 0 else event.said_start
    shown_start = -1 if isinstance(event, events.BaselineTaken) else event.shown_start
    authorization = Authorization(
        authorization_id=AuthorizationId(event.authorization),
        device_id=DeviceId(event.device),
        intent_epoch=event.device_epoch,
        intent_counter=event.counter,
        account_id=AccountId(event.account),
        token_key=event.token_key,
        commitment=None if isinstance(event, events.BaselineTaken) else event.commitment,
        register_id=RegisterId(event.register_id),
        register_epoch=event.register_epoch,
        unit=event.unit,
        start=event.start,
        started_at=Instant(event.at),
        tariff=TariffVersion(tariff_id=TariffId(event.tariff_id), version=event.tariff_version),
        currency=Currency(event.currency),
        report_interval_s=event.report_interval_s,
        standing=baseline or (isinstance(event, events.Adopted) and not event.grant),
        first_statement=event.statement,
        traceparent=event.traceparent,
        opened_position=position,
        shown_start=event.start if shown_start < 0 else shown_start,
        said_start=said_start,
        heard_at=Instant(event.decided_at if isinstance(event, events.Granted) else event.at),
    )
    if isinstance(event, events.Granted):
        authorization.granted_incarnation = event.incarnation
    elif isinstance(event, events.Adopted):
        _goes_on(authorization, event, position)
    return authorization


def _goes_on(authorization: Authorization, event: events.Adopted, position: int) -> None:
    authorization.value = authorization.signed_value = authorization.settled = event.register_to
    authorization.recorded_to = event.register_to
    authorization.billed = {rate: (net, tax) for rate, net, tax in event.billed}
    authorization.net_micros = sum(net for _, net, _ in event.billed)
    authorization.tax_micros = sum(tax for _, _, tax in event.billed)
    authorization.holds = dict(event.holds)
    if event.grant:
        authorization.told = told_by(event, position)
        authorization.heard_at = Instant(authorization.told.at)
        authorization.granted_incarnation = authorization.told.incarnation


def told_by(event: events.Adopted, position: int) -> Told:
    """What the grant that the device showed had told it; the entry at ``position`` keeps it."""
    grant = decode_grant(event.grant)
    return Told(
        grant.witness.position,
        grant.witness.incarnation,
        grant.witness.start_id,
        grant.at,
        grant.limit - grant.start + event.start,
        tuple((FLOOR_FUNDING if part.quota_id == FLOOR else part.quota_id, part.amount_micros) for part in grant.held),
        grant.net_micros,
        grant.tax_micros,
        entry=position,
        lapses_at=grant.lapses_at,
    )
