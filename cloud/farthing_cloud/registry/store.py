"""Every SQL sentence of the registry, typed. Each call runs in the caller's transaction."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import psycopg

from farthing.v1 import registry_pb2
from farthing_cloud.database import sentence

Connection: TypeAlias = psycopg.AsyncConnection[Any]


def _sql(name: str) -> bytes:
    return sentence("farthing_cloud.registry", name)


_LOCK_OPERATOR = _sql("lock_operator")
_GET_OPERATOR = _sql("get_operator")
_PUT_OPERATOR = _sql("put_operator")
_LIST_OPERATORS = _sql("list_operators")
_GET_SITE = _sql("get_site")
_PUT_SITE = _sql("put_site")
_LIST_SITES = _sql("list_sites")
_GET_GATEWAY = _sql("get_gateway")
_PUT_GATEWAY = _sql("put_gateway")
_CHANGE_GATEWAYS = _sql("change_gateways")
_SET_GATEWAY_STATUS = _sql("set_gateway_status")
_LIST_GATEWAYS = _sql("list_gateways")
_GATEWAYS_OF_SITES = _sql("gateways_of_sites")
_GATEWAYS_OF_OPERATOR = _sql("gateways_of_operator")
_LEDGER_KNOWS = _sql("ledger_knows_gateway")
_VAULT_KNOWS = _sql("vault_knows_gateway")
_LIST_BEHIND = _sql("list_behind_gateways")
_GET_TARIFF = _sql("get_tariff")
_PUT_TARIFF = _sql("put_tariff")
_LIST_TARIFFS = _sql("list_tariffs")
_GET_ENTITLEMENT = _sql("get_entitlement")
_PUT_ENTITLEMENT = _sql("put_entitlement")
_LIST_ENTITLEMENTS = _sql("list_entitlements")
_GET_DEVICE = _sql("get_device")
_PUT_DEVICE = _sql("put_device")
_SET_DEVICE_STATUS = _sql("set_device_status")
_LIST_DEVICES = _sql("list_devices")
_PUT_DEVICE_SITES = _sql("put_device_sites")
_LEAVE_DEVICE_SITES = _sql("leave_device_sites")
_GATEWAYS_OF_DEVICE = _sql("gateways_of_device")
_DEVICES_OF_SITE = _sql("devices_of_site")
_RECORD_STATUS_CHANGE = _sql("record_status_change")
_LIST_DEVICE_CHANGES = _sql("list_device_changes")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredGateway:
    """A gateway with its status filled in, and as of which revision the ledger and the vault know it."""

    gateway: registry_pb2.Gateway
    revision: int
    ledger_revision: int
    vault_revision: int


async def lock_operator(connection: Connection, operator_id: str) -> None:
    """Registrations of one operator happen one after the other."""
    await connection.execute(_LOCK_OPERATOR, {"operator_id": operator_id})


async def _one(connection: Connection, statement: bytes, **values: object) -> Any:
    return await (await connection.execute(statement, values)).fetchone()


async def _all(connection: Connection, statement: bytes, **values: object) -> list[Any]:
    return await (await connection.execute(statement, values)).fetchall()


async def get_operator(connection: Connection, operator_id: str) -> registry_pb2.Operator | None:
    row = await _one(connection, _GET_OPERATOR, operator_id=operator_id)
    return None if row is None else registry_pb2.Operator.FromString(bytes(row[0]))


async def put_operator(connection: Connection, operator: registry_pb2.Operator) -> None:
    await connection.execute(
        _PUT_OPERATOR, {"operator_id": operator.operator_id, "content": operator.SerializeToString(deterministic=True)}
    )


async def list_operators(connection: Connection) -> list[registry_pb2.Operator]:
    return [registry_pb2.Operator.FromString(bytes(row[0])) for row in await _all(connection, _LIST_OPERATORS)]


async def get_site(connection: Connection, site_id: str) -> registry_pb2.Site | None:
    row = await _one(connection, _GET_SITE, site_id=site_id)
    return None if row is None else registry_pb2.Site.FromString(bytes(row[1]))


async def put_site(connection: Connection, site: registry_pb2.Site) -> None:
    await connection.execute(
        _PUT_SITE,
        {
            "site_id": site.site_id,
            "operator_id": site.operator_id,
            "content": site.SerializeToString(deterministic=True),
        },
    )


async def list_sites(connection: Connection, operator_id: str) -> list[registry_pb2.Site]:
    rows = await _all(connection, _LIST_SITES, operator_id=operator_id)
    return [registry_pb2.Site.FromString(bytes(row[0])) for row in rows]


def _gateway(content: bytes, status: int) -> registry_pb2.Gateway:
    gateway = registry_pb2.Gateway.FromString(bytes(content))
    gateway.status = status  # type: ignore[assignment]  # the column holds numbers of the enum
    return gateway


async def get_gateway(connection: Connection, gateway_id: str) -> StoredGateway | None:
    row = await _one(connection, _GET_GATEWAY, gateway_id=gateway_id)
    if row is None:
        return None
    return StoredGateway(
        gateway=_gateway(row[0], row[1]), revision=row[2], ledger_revision=row[3], vault_revision=row[4]
    )


async def put_gateway(connection: Connection, gateway: registry_pb2.Gateway) -> None:
    """Insert with its status, or replace the content and leave the status."""
    content = registry_pb2.Gateway()
    content.CopyFrom(gateway)
    content.ClearField("status")
    await connection.execute(
        _PUT_GATEWAY,
        {
            "gateway_id": gateway.gateway_id,
            "operator_id": gateway.operator_id,
            "site_id": gateway.site_id,
            "status": int(gateway.status),
            "content": content.SerializeToString(deterministic=True),
        },
    )


async def set_gateway_status(connection: Connection, gateway_id: str, status: int) -> None:
    # The ledger has to know whom not to believe by himself any more; the others it need not.
    revoked = status == registry_pb2.GATEWAY_STATUS_REVOKED
    named = {"gateway_id": gateway_id, "status": int(status), "tell_ledger": revoked}
    await connection.execute(_SET_GATEWAY_STATUS, named)


async def change_gateways(connection: Connection, site_id: str) -> None:
    """What the ledger knows of the gateways of a site is not all any more."""
    await connection.execute(_CHANGE_GATEWAYS, {"site_id": site_id})


async def list_gateways(connection: Connection, operator_id: str) -> list[registry_pb2.Gateway]:
    rows = await _all(connection, _LIST_GATEWAYS, operator_id=operator_id)
    return [_gateway(row[0], row[1]) for row in rows]


async def gateways_of_sites(connection: Connection, site_ids: Sequence[str]) -> list[str]:
    return [row[0] for row in await _all(connection, _GATEWAYS_OF_SITES, site_ids=list(site_ids))]


async def gateways_of_operator(connection: Connection, operator_id: str) -> list[str]:
    return [row[0] for row in await _all(connection, _GATEWAYS_OF_OPERATOR, operator_id=operator_id)]


async def ledger_knows(connection: Connection, gateway_id: str, revision: int) -> None:
    await connection.execute(_LEDGER_KNOWS, {"gateway_id": gateway_id, "revision": revision})


async def vault_knows(connection: Connection, gateway_id: str, revision: int) -> None:
    await connection.execute(_VAULT_KNOWS, {"gateway_id": gateway_id, "revision": revision})


async def behind_gateways(connection: Connection) -> list[str]:
    """Gateways that ledger or vault do not know as they are, or that have wishes to be sent."""
    return [row[0] for row in await _all(connection, _LIST_BEHIND)]


async def get_tariff(
    connection: Connection, operator_id: str, tariff_id: str, version: int
) -> registry_pb2.Tariff | None:
    row = await _one(connection, _GET_TARIFF, operator_id=operator_id, tariff_id=tariff_id, version=version)
    return None if row is None else registry_pb2.Tariff.FromString(bytes(row[0]))


async def put_tariff(connection: Connection, tariff: registry_pb2.Tariff) -> None:
    await connection.execute(
        _PUT_TARIFF,
        {
            "operator_id": tariff.operator_id,
            "tariff_id": tariff.tariff.tariff_id,
            "version": tariff.tariff.version,
            "content": tariff.SerializeToString(deterministic=True),
        },
    )


async def list_tariffs(connection: Connection, operator_id: str) -> list[registry_pb2.Tariff]:
    rows = await _all(connection, _LIST_TARIFFS, operator_id=operator_id)
    return [registry_pb2.Tariff.FromString(bytes(row[0])) for row in rows]


async def get_entitlement(
    connection: Connection, operator_id: str, entitlement_id: str
) -> registry_pb2.Entitlement | None:
    row = await _one(connection, _GET_ENTITLEMENT, operator_id=operator_id, entitlement_id=entitlement_id)
    return None if row is None else registry_pb2.Entitlement.FromString(bytes(row[0]))


async def put_entitlement(connection: Connection, entitlement: registry_pb2.Entitlement) -> None:
    await connection.execute(
        _PUT_ENTITLEMENT,
        {
            "operator_id": entitlement.operator_id,
            "entitlement_id": entitlement.record.entitlement_id,
            "content": entitlement.SerializeToString(deterministic=True),
        },
    )


async def list_entitlements(connection: Connection, operator_id: str) -> list[registry_pb2.Entitlement]:
    rows = await _all(connection, _LIST_ENTITLEMENTS, operator_id=operator_id)
    return [registry_pb2.Entitlement.FromString(bytes(row[0])) for row in rows]


def _device(content: bytes, status: int) -> registry_pb2.Device:
    device = registry_pb2.Device.FromString(bytes(content))
    device.record.status = status  # type: ignore[assignment]  # the column holds numbers of the enum
    return device


async def get_device(connection: Connection, device_id: str) -> registry_pb2.Device | None:
    row = await _one(connection, _GET_DEVICE, device_id=device_id)
    return None if row is None else _device(row[0], row[1])


async def put_device(connection: Connection, device: registry_pb2.Device) -> None:
    """Insert with its status, or replace the content and leave the status; and place it at its sites."""
    content = registry_pb2.Device()
    content.CopyFrom(device)
    content.record.ClearField("status")
    device_id = device.record.device_id
    await connection.execute(
        _PUT_DEVICE,
        {
            "device_id": device_id,
            "operator_id": device.operator_id,
            "status": int(device.record.status),
            "content": content.SerializeToString(deterministic=True),
        },
    )
    site_ids = list(device.site_ids)
    await connection.execute(_PUT_DEVICE_SITES, {"device_id": device_id, "site_ids": site_ids})
    await connection.execute(_LEAVE_DEVICE_SITES, {"device_id": device_id, "site_ids": site_ids})


async def set_device_status(connection: Connection, device_id: str, status: int) -> None:
    await connection.execute(_SET_DEVICE_STATUS, {"device_id": device_id, "status": int(status)})


async def list_devices(connection: Connection, operator_id: str) -> list[registry_pb2.Device]:
    rows = await _all(connection, _LIST_DEVICES, operator_id=operator_id)
    return [_device(row[0], row[1]) for row in rows]


async def gateways_of_device(connection: Connection, device_id: str) -> list[tuple[str, bool]]:
    """(gateway, whether the device is at its site now) for each gateway that was ever told of it."""
    return [(row[0], row[1]) for row in await _all(connection, _GATEWAYS_OF_DEVICE, device_id=device_id)]


async def devices_of_site(connection: Connection, site_id: str) -> list[registry_pb2.Device]:
    rows = await _all(connection, _DEVICES_OF_SITE, site_id=site_id)
    return [_device(row[0], row[1]) for row in rows]


async def record_status_change(
    connection: Connection,
    *,
    kind: str,
    subject_id: str,
    old_status: int,
    new_status: int,
    reason: str,
    caller: str,
    at_us: int,
) -> None:
    await connection.execute(
        _RECORD_STATUS_CHANGE,
        {
            "kind": kind,
            "id": subject_id,
            "old_status": int(old_status),
            "new_status": int(new_status),
            "reason": reason,
            "caller": caller,
            "at_us": at_us,
        },
    )


async def list_device_changes(
    connection: Connection, *, transaction_id: int, sequence: int, limit: int
) -> list[registry_pb2.DeviceChange]:
    """What became of devices after a place, in order; nothing that a transaction under way can still precede."""
    rows = await _all(
        connection, _LIST_DEVICE_CHANGES, transaction_id=str(transaction_id), sequence=sequence, limit=limit
    )
    changes = []
    for row in rows:
        device = registry_pb2.Device.FromString(bytes(row[2]))
        device.record.status = row[3]
        changes.append(
            registry_pb2.DeviceChange(transaction_id=int(row[0]), sequence=row[1], device=device, at_us=row[4])
        )
    return changes
