"""What a Put refers to and must fit: its operator, its site, its tariff, what was there before it.

A dry run takes references that are not there as coming.
"""

import grpc

from farthing.v1 import directive_pb2, registry_pb2
from farthing_cloud.refusals import Refused
from farthing_cloud.registry import store
from farthing_cloud.registry.checks import check_fit, check_floor_shares
from farthing_cloud.registry.differences import differences


def precondition(details: str) -> Refused:
    """A refusal that another call would lift."""
    return Refused(grpc.StatusCode.FAILED_PRECONDITION, details)


async def operator_currency(connection: store.Connection, operator_id: str, *, dry_run: bool) -> str | None:
    """What the operator works in; raise ``Refused`` where there is no such operator."""
    operator = await store.get_operator(connection, operator_id)
    if operator is None:
        if dry_run:
            return None
        raise precondition(f"no operator {operator_id!r:.80}: put it first")
    return operator.currency


async def site_of_operator(
    connection: store.Connection, site_id: str, operator_id: str, *, dry_run: bool
) -> registry_pb2.Site | None:
    """The site; raise ``Refused`` where there is none, or it is another operator's."""
    site = await store.get_site(connection, site_id)
    if site is None:
        if dry_run:
            return None
        raise precondition(f"no site {site_id!r:.80}: put it first")
    if site.operator_id != operator_id:
        raise precondition(f"site {site_id} belongs to another operator")
    return site


async def check_floors(
    connection: store.Connection,
    operator: registry_pb2.Operator | str,
    *,
    site: registry_pb2.Site | None = None,
    joining: str = "",
) -> None:
    """What floors give one account over all gateways, with ``site`` as it is to be and one more gateway at ``joining``."""
    if isinstance(operator, str):
        known = await store.get_operator(connection, operator)
        if known is None:
            return
        operator = known
    if not operator.floor_per_account_micros:
        return
    shares = []
    sites = {each.site_id: each for each in await store.list_sites(connection, operator.operator_id)}
    if site is not None:
        sites[site.site_id] = site
    for site_id, each in sites.items():
        gateways = len(await store.gateways_of_sites(connection, [site_id])) + (site_id == joining)
        shares.append((gateways, each.floor.per_account_micros))
    check_floor_shares(operator, shares)


async def check_device_tariff(connection: store.Connection, device: registry_pb2.Device, *, dry_run: bool) -> None:
    """The tariff that a device begins with is there and fits it."""
    record = device.record
    tariff = await known_tariff(
        connection, device.operator_id, record.tariff_id, record.tariff_version, dry_run=dry_run
    )
    if tariff is not None:
        check_fit(record, tariff)


async def known_tariff(
    connection: store.Connection, operator_id: str, tariff_id: str, version: int, *, dry_run: bool
) -> registry_pb2.Tariff | None:
    """A version of a tariff; raise ``Refused`` where there is none."""
    tariff = await store.get_tariff(connection, operator_id, tariff_id, version)
    if tariff is None and not dry_run:
        raise precondition(f"no tariff {tariff_id} version {version}: put it first")
    return tariff


async def entitled_gateways(connection: store.Connection, entitlement: registry_pb2.Entitlement) -> list[str]:
    """Those that know it: of its sites, or all of its operator's."""
    if entitlement.site_ids:
        return await store.gateways_of_sites(connection, list(entitlement.site_ids))
    return await store.gateways_of_operator(connection, entitlement.operator_id)


def check_replacement(old: registry_pb2.Device | None, device: registry_pb2.Device) -> None:
    """Fill in the status; raise ``Refused`` for what a Put may not change."""
    record = device.record
    present = directive_pb2.DEVICE_STATUS_ACTIVE if old is None else old.record.status
    if record.status not in (directive_pb2.DEVICE_STATUS_UNSPECIFIED, present):
        raise precondition("record.status: SetDeviceStatus changes it")
    record.status = present
    if old is None:
        return
    if old.record.status == directive_pb2.DEVICE_STATUS_DECOMMISSIONED and differences(old, device):
        raise precondition(f"device {record.device_id} is decommissioned, for ever")
    if old.operator_id != device.operator_id:
        raise precondition(
            f"device {record.device_id} belongs to another operator; a transfer needs the owner's voucher"
        )
    if record.device_epoch < old.record.device_epoch:
        raise precondition(f"record.device_epoch: it is at {old.record.device_epoch}, and never goes back")
    if record.device_epoch == old.record.device_epoch and record.statement_key != old.record.statement_key:
        raise precondition("record.statement_key: a device's key changes by rotation, with a new device_epoch")
    _check_registers(old.record, record)


def _check_registers(old: directive_pb2.DeviceRecord, record: directive_pb2.DeviceRecord) -> None:
    """What was counted stands in statements and claims by its register's epoch alone: another unit or modulus would make other uses of them."""
    known = {register.register_id: register for register in old.registers}
    for register in record.registers:
        before = known.get(register.register_id)
        if before is None or register.register_epoch > before.register_epoch:
            continue
        if register.register_epoch < before.register_epoch:
            raise precondition(
                f"record.registers: the epoch of {register.register_id} is at {before.register_epoch}, and never goes back"
            )
        if (register.unit, register.modulus) != (before.unit, before.modulus):
            raise precondition(
                f"record.registers: {register.register_id} counts {before.unit} up to {before.modulus} in epoch {before.register_epoch}; "
                "another unit or modulus is another register: give it the next epoch, here and in the device"
            )
