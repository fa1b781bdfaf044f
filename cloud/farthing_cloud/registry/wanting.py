"""What gateways must hear of a change, written in its transaction: a wish for each gateway, one for each subject."""

from collections.abc import Iterable
from typing import Any, Final

from farthing.clock import Instant
from farthing.v1 import directive_pb2, ledger_pb2, registry_pb2
from farthing_cloud.registry import store
from farthing_cloud.wishes import add_wish

#: What a site may say beside floor and seal, each a directive of its own.
SITE_POLICIES: Final = ("usage_limits", "place", "scorecard", "online_check")


async def introduce(
    connection: store.Connection, gateway: registry_pb2.Gateway, site: registry_pb2.Site, now: Instant
) -> None:
    """Everything a new gateway must know: its site's policy, its operator's tariffs, the devices and entitlements at the site."""
    ids = [gateway.gateway_id]
    await want(connection, ids, gateway.operator_id, "floor", floor=site.floor)
    await want(connection, ids, gateway.operator_id, "seal", seal=site.seal)
    for name in SITE_POLICIES:
        if site.HasField(name):
            await want(connection, ids, gateway.operator_id, name, **{name: getattr(site, name)})
    for tariff in await store.list_tariffs(connection, gateway.operator_id):
        await want(connection, ids, gateway.operator_id, tariff_subject(tariff.tariff), tariff=tariff.tariff)
    for device in await store.devices_of_site(connection, site.site_id):
        await want(connection, ids, gateway.operator_id, device_subject(device.record), device=device.record)
    for each in await store.list_entitlements(connection, gateway.operator_id):
        # What is over covers nothing any more.
        if each.record.until_us > now and (not each.site_ids or site.site_id in each.site_ids):
            subject = entitlement_subject(each.record)
            await want(connection, ids, gateway.operator_id, subject, entitlement=each.record)


async def want_device(
    connection: store.Connection, gateways: Iterable[tuple[str, bool]], device: registry_pb2.Device
) -> None:
    """``device`` for each gateway that is named; one where it is not ``present`` hears of it as suspended."""
    for gateway_id, present in gateways:
        record = directive_pb2.DeviceRecord()
        record.CopyFrom(device.record)
        if not present and record.status == directive_pb2.DEVICE_STATUS_ACTIVE:
            # It moved on: its key stops working at the site it left.
            record.status = directive_pb2.DEVICE_STATUS_SUSPENDED
        await want(connection, [gateway_id], device.operator_id, device_subject(record), device=record)


async def want(
    connection: store.Connection, gateway_ids: Iterable[str], operator_id: str, subject: str, **body: Any
) -> None:
    """One directive, ``body`` by its name, for each gateway; one about the same ``subject`` that was parked is forgotten."""
    await add_wish(connection, gateway_ids, subject, ledger_pb2.IssueDirectiveRequest(operator_id=operator_id, **body))


def tariff_subject(record: directive_pb2.TariffRecord) -> str:
    """A tariff's version, among what a gateway is told of."""
    return f"tariff/{record.tariff_id}/{record.version}"


def device_subject(record: directive_pb2.DeviceRecord) -> str:
    """A device, whatever of it changes, among what a gateway is told of."""
    return f"device/{record.device_id}"


def entitlement_subject(record: directive_pb2.EntitlementRecord) -> str:
    """An entitlement, whatever of it changes, among what a gateway is told of."""
    return f"entitlement/{record.entitlement_id}"
