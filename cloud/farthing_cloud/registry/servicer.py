"""The registry's calls: parse, compare, store with what gateways must hear of it, then send that.

Rule 1: the same Put again changes nothing, and sends what an interrupted one left unsent.
Rule 2: a dry run reads and compares only, and takes references it cannot find as coming.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import grpc.aio
import structlog
from cryptography import x509
from typing_extensions import override

from farthing.clock import BusinessClock
from farthing.ids import AUTHORIZATION_ID_SIZE
from farthing.v1 import (
    directive_pb2,
    registry_pb2,
    registry_pb2_grpc,
)
from farthing_cloud.callers import caller
from farthing_cloud.database import Pool
from farthing_cloud.refusals import Context, Refused, refusals
from farthing_cloud.registry import references, store, wanting
from farthing_cloud.registry.batch_keys import keep_batch_keys, revoke_batch_key
from farthing_cloud.registry.checks import (
    Unfit,
    check_device,
    check_entitlement,
    check_floor_fits,
    check_gateway,
    check_operator,
    check_site,
    check_tariff,
)
from farthing_cloud.registry.differences import differences
from farthing_cloud.registry.life import IllegalStep, device_step, gateway_step
from farthing_cloud.registry.references import precondition
from farthing_cloud.registry.sending import Sending
from farthing_cloud.wishes import WishRefused

MAX_REASON_LENGTH = 500
#: Changes of devices in one answer: some 2 kB each, well below what one message may have.
MAX_CHANGES = 1_000
#: PostgreSQL keeps signed 64-bit integers.
MAX_PLACE = 2**63 - 1
#: Epochs count from 1, so that 0 on the wire is "not said".
FIRST_DEVICE_EPOCH = 1

_log = structlog.stdlib.get_logger(__name__)


#: What the registry's rules raise.
_CODES = ((Unfit, grpc.StatusCode.INVALID_ARGUMENT), (IllegalStep, grpc.StatusCode.FAILED_PRECONDITION))


class RegistryServicer(registry_pb2_grpc.RegistryServicer):
    """See ``registry.proto``."""

    def __init__(
        self,
        *,
        pool: Pool,
        ledger: grpc.aio.Channel,
        vault: grpc.aio.Channel,
        root: x509.Certificate,
        clock: BusinessClock,
    ) -> None:
        self._pool = pool
        self._sending = Sending(pool=pool, ledger=ledger, vault=vault)
        self._root = root
        self._clock = clock

    # --- puts ---------------------------------------------------------------------------------------------------------

    @override
    async def PutOperator(self, request: registry_pb2.PutOperatorRequest, context: Context) -> registry_pb2.PutResponse:
        """Name and currency of who runs devices. The currency never changes: amounts were promised in it."""
        operator = request.operator
        async with refusals(context, _CODES):
            check_operator(operator)
            async with self._change(operator.operator_id) as connection:
                old = await store.get_operator(connection, operator.operator_id)
                found = differences(old, operator)
                if old is not None and old.currency != operator.currency:
                    raise precondition(f"operator {operator.operator_id} works in {old.currency}: that never changes")
                await references.check_floors(connection, operator)
                if found and not request.dry_run:
                    await store.put_operator(connection, operator)
        return _answer(old, found)

    @override
    async def PutSite(self, request: registry_pb2.PutSiteRequest, context: Context) -> registry_pb2.PutResponse:
        """A place, with what its gateways may allow offline and when they seal."""
        site = request.site
        who = caller(context)
        gateway_ids: list[str] = []
        async with refusals(context, _CODES):
            async with self._change(site.operator_id) as connection:
                currency = await references.operator_currency(connection, site.operator_id, dry_run=request.dry_run)
                check_site(site, currency=currency)
                if currency is not None:
                    site.floor.currency = currency
                old = await store.get_site(connection, site.site_id)
                found = differences(old, site)
                if old is not None and old.operator_id != site.operator_id:
                    raise precondition(f"site {site.site_id} belongs to another operator")
                gateway_ids = await store.gateways_of_sites(connection, [site.site_id])
                await references.check_floors(connection, site.operator_id, site=site)
                if old is None or old.floor != site.floor:
                    for gateway in await store.list_gateways(connection, site.operator_id):
                        if gateway.site_id == site.site_id and gateway.status != registry_pb2.GATEWAY_STATUS_REVOKED:
                            check_floor_fits(site, gateway)
                if old is not None and old.time_zone != site.time_zone and gateway_ids:
                    raise precondition(f"site {site.site_id} has gateways, which were told {old.time_zone} for ever")
                if found and not request.dry_run:
                    await store.put_site(connection, site)
                    if old is not None and old.least_evidence_class != site.least_evidence_class:
                        # The ledger parks by it; gateways need not know: what they bill is device-signed.
                        await store.change_gateways(connection, site.site_id)
                        await store.record_status_change(
                            connection,
                            kind="least-evidence-class",
                            subject_id=site.site_id,
                            old_status=old.least_evidence_class,
                            new_status=site.least_evidence_class,
                            reason="",
                            caller=who.uri,
                            at_us=self._clock.now(),
                        )
                    if old is None or old.floor != site.floor:
                        await wanting.want(connection, gateway_ids, site.operator_id, "floor", floor=site.floor)
                    if old is None or old.seal != site.seal:
                        await wanting.want(connection, gateway_ids, site.operator_id, "seal", seal=site.seal)
                    for name in wanting.SITE_POLICIES:
                        if getattr(site, name) != getattr(old or registry_pb2.Site(), name):
                            # An absent one is told as well: as empty, which gateways obey as none.
                            body = {name: getattr(site, name)}
                            await wanting.want(connection, gateway_ids, site.operator_id, name, **body)
            await self._sending.send(gateway_ids, dry_run=request.dry_run)
        return _answer(old, found)

    @override
    async def PutGateway(self, request: registry_pb2.PutGatewayRequest, context: Context) -> registry_pb2.PutResponse:
        """A gateway and its public keys. It is told everything it must know before anything else happens to it."""
        gateway = request.gateway
        async with refusals(context, _CODES):
            check_gateway(gateway, root=self._root)
            async with self._change(gateway.operator_id) as connection:
                await references.operator_currency(connection, gateway.operator_id, dry_run=request.dry_run)
                site = await references.site_of_operator(
                    connection, gateway.site_id, gateway.operator_id, dry_run=request.dry_run
                )
                stored = await store.get_gateway(connection, gateway.gateway_id)
                old = None if stored is None else stored.gateway
                status = registry_pb2.GATEWAY_STATUS_ACTIVE if old is None else old.status
                if gateway.status not in (registry_pb2.GATEWAY_STATUS_UNSPECIFIED, status):
                    raise precondition("status: SetGatewayStatus changes it")
                gateway.status = status
                if old is not None and (old.operator_id, old.site_id) != (gateway.operator_id, gateway.site_id):
                    raise precondition(f"gateway {gateway.gateway_id} is at site {old.site_id}; gateways do not move")
                keep_batch_keys(old, gateway)
                found = differences(old, gateway)
                if site is not None and (old is None or old.exposure_micros != gateway.exposure_micros):
                    check_floor_fits(site, gateway)
                if old is None:
                    await references.check_floors(connection, gateway.operator_id, joining=gateway.site_id)
                if found and not request.dry_run:
                    await store.put_gateway(connection, gateway)
                    if old is None and site is not None:
                        await wanting.introduce(connection, gateway, site, self._clock.now())
            await self._sending.send([gateway.gateway_id], dry_run=request.dry_run)
        return _answer(old, found)

    @override
    async def PutTariff(self, request: registry_pb2.PutTariffRequest, context: Context) -> registry_pb2.PutResponse:
        """A version of a tariff; it never changes, because statements and claims name it."""
        tariff = request.tariff
        record = tariff.tariff
        gateway_ids: list[str] = []
        async with refusals(context, _CODES):
            async with self._change(tariff.operator_id) as connection:
                currency = await references.operator_currency(connection, tariff.operator_id, dry_run=request.dry_run)
                check_tariff(tariff, currency=currency)
                old = await store.get_tariff(connection, tariff.operator_id, record.tariff_id, record.version)
                found = differences(old, tariff)
                if old is not None and found:
                    raise Refused(
                        grpc.StatusCode.ALREADY_EXISTS,
                        f"tariff {record.tariff_id} version {record.version} is another one, and a version never changes:"
                        f" put it as version {record.version + 1}",
                    )
                gateway_ids = await store.gateways_of_operator(connection, tariff.operator_id)
                if found and not request.dry_run:
                    await store.put_tariff(connection, tariff)
                    await wanting.want(
                        connection, gateway_ids, tariff.operator_id, wanting.tariff_subject(record), tariff=record
                    )
            await self._sending.send(gateway_ids, dry_run=request.dry_run)
        return _answer(old, found)

    @override
    async def PutDevice(self, request: registry_pb2.PutDeviceRequest, context: Context) -> registry_pb2.PutResponse:
        """A device, the key its statements are checked with, and the sites whose gateways know it."""
        device = request.device
        record = device.record
        gateways: list[tuple[str, bool]] = []
        async with refusals(context, _CODES):
            if record.device_epoch == 0:
                record.device_epoch = FIRST_DEVICE_EPOCH
            check_device(device, root=self._root)
            # Their order says nothing: it must not look like a change.
            device.site_ids.sort()
            async with self._change(device.operator_id) as connection:
                await references.operator_currency(connection, device.operator_id, dry_run=request.dry_run)
                for site_id in device.site_ids:
                    await references.site_of_operator(connection, site_id, device.operator_id, dry_run=request.dry_run)
                await references.check_device_tariff(connection, device, dry_run=request.dry_run)
                old = await store.get_device(connection, record.device_id)
                references.check_replacement(old, device)
                found = differences(old, device)
                if found and not request.dry_run:
                    await store.put_device(connection, device)
                gateways = await store.gateways_of_device(connection, record.device_id)
                if found and not request.dry_run:
                    await wanting.want_device(connection, gateways, device)
            await self._sending.send([gateway_id for gateway_id, _ in gateways], dry_run=request.dry_run)
        return _answer(old, found)

    @override
    async def PutEntitlement(
        self, request: registry_pb2.PutEntitlementRequest, context: Context
    ) -> registry_pb2.PutResponse:
        """What a payer may use under a tariff of its own. Put again with another end, it ends then; gateways that it leaves forget it."""
        entitlement = request.entitlement
        record = entitlement.record
        gateway_ids: list[str] = []
        async with refusals(context, _CODES):
            check_entitlement(entitlement)
            # Their order says nothing: it must not look like a change.
            entitlement.site_ids.sort()
            record.device_tariff_ids.sort()
            async with self._change(entitlement.operator_id) as connection:
                await references.operator_currency(connection, entitlement.operator_id, dry_run=request.dry_run)
                for site_id in entitlement.site_ids:
                    await references.site_of_operator(
                        connection, site_id, entitlement.operator_id, dry_run=request.dry_run
                    )
                await references.known_tariff(
                    connection,
                    entitlement.operator_id,
                    record.tariff_id,
                    record.tariff_version,
                    dry_run=request.dry_run,
                )
                old = await store.get_entitlement(connection, entitlement.operator_id, record.entitlement_id)
                if old is not None and old.record.account_id != record.account_id:
                    raise precondition(
                        f"entitlement {record.entitlement_id} is {old.record.account_id}'s; another payer gets another one"
                    )
                found = differences(old, entitlement)
                gateway_ids = await references.entitled_gateways(connection, entitlement)
                if found and not request.dry_run:
                    await store.put_entitlement(connection, entitlement)
                    subject = wanting.entitlement_subject(record)
                    await wanting.want(connection, gateway_ids, entitlement.operator_id, subject, entitlement=record)
                    known = [] if old is None else await references.entitled_gateways(connection, old)
                    left = [gateway_id for gateway_id in known if gateway_id not in gateway_ids]
                    over = directive_pb2.EntitlementRecord()
                    over.CopyFrom(record)
                    over.until_us = over.from_us
                    await wanting.want(connection, left, entitlement.operator_id, subject, entitlement=over)
                    gateway_ids += left
            await self._sending.send(gateway_ids, dry_run=request.dry_run)
        return _answer(old, found)

    # --- status -------------------------------------------------------------------------------------------------------

    @override
    async def SetDeviceStatus(
        self, request: registry_pb2.SetDeviceStatusRequest, context: Context
    ) -> registry_pb2.PutResponse:
        """A step in a device's life (``life.DEVICE_STEPS``), told to every gateway that knows it."""
        who = caller(context)
        gateways: list[tuple[str, bool]] = []
        async with refusals(context, _CODES):
            _check_reason(request.reason)
            device = await self._known_device(request.device_id)
            async with self._change(device.operator_id) as connection:
                old = await store.get_device(connection, request.device_id)
                assert old is not None, "devices are never deleted"
                changed = device_step(
                    old.record.status, request.status, only_reduce=(who.kind, who.id) == ("service", "fraud")
                )
                device = registry_pb2.Device()
                device.CopyFrom(old)
                device.record.status = request.status
                gateways = await store.gateways_of_device(connection, request.device_id)
                if changed:
                    await store.set_device_status(connection, request.device_id, request.status)
                    await store.record_status_change(
                        connection,
                        kind="device",
                        subject_id=request.device_id,
                        old_status=old.record.status,
                        new_status=request.status,
                        reason=request.reason,
                        caller=who.uri,
                        at_us=self._clock.now(),
                    )
                    await wanting.want_device(connection, gateways, device)
            if changed:
                _log.info(
                    "device status changed", device=request.device_id, status=int(request.status), reason=request.reason
                )
            await self._sending.send([gateway_id for gateway_id, _ in gateways], dry_run=False)
        return _answer(old, differences(old, device))

    # --- uses ---------------------------------------------------------------------------------------------------------

    @override
    async def CloseUse(self, request: registry_pb2.CloseUseRequest, context: Context) -> registry_pb2.CloseUseResponse:
        """The recorded decision that a use is over, told to every gateway that knows its device: who has it open closes it."""
        who = caller(context)
        async with refusals(context, _CODES):
            if request.authorization_id and len(request.authorization_id) != AUTHORIZATION_ID_SIZE:
                raise Unfit(f"authorization_id: {AUTHORIZATION_ID_SIZE} bytes, or none for all of the device")
            subject = f"use/{request.device_id}/{request.authorization_id.hex()}"
            body = directive_pb2.UseClosed(
                device_id=request.device_id,
                authorization_id=request.authorization_id,
                decision=f"{request.reason} ({who.uri})",
            )
            told = await self._decide(request.device_id, subject, request.reason, who.uri, use_closed=body)
        return registry_pb2.CloseUseResponse(gateway_ids=told)

    @override
    async def DecideParked(
        self, request: registry_pb2.DecideParkedRequest, context: Context
    ) -> registry_pb2.DecideParkedResponse:
        """The recorded decision about a statement that was parked, told to every gateway that knows its device."""
        who = caller(context)
        async with refusals(context, _CODES):
            subject = f"parked/{request.device_id}/{request.device_epoch}/{request.counter}"
            body = directive_pb2.ParkedDecided(
                device_id=request.device_id,
                device_epoch=request.device_epoch,
                counter=request.counter,
                accept=request.accept,
                decision=f"{request.reason} ({who.uri})",
            )
            told = await self._decide(request.device_id, subject, request.reason, who.uri, parked_decided=body)
        return registry_pb2.DecideParkedResponse(gateway_ids=told)

    async def _decide(self, device_id: str, subject: str, reason: str, who: str, **body: Any) -> list[str]:
        _check_reason(reason)
        device = await self._known_device(device_id)
        async with self._change(device.operator_id) as connection:
            told = [gateway_id for gateway_id, _ in await store.gateways_of_device(connection, device_id)]
            await store.record_status_change(
                connection,
                kind="decision",
                subject_id=subject,
                old_status=0,
                new_status=0,
                reason=reason,
                caller=who,
                at_us=self._clock.now(),
            )
            await wanting.want(connection, told, device.operator_id, subject, **body)
        _log.info("decided about a use", subject=subject, reason=reason, caller=who)
        await self._sending.send(told, dry_run=False)
        return told

    @override
    async def SetGatewayStatus(
        self, request: registry_pb2.SetGatewayStatusRequest, context: Context
    ) -> registry_pb2.PutResponse:
        """Who is not active may not connect; live calls end within a second."""
        who = caller(context)
        async with refusals(context, _CODES):
            _check_reason(request.reason)
            async with self._change_gateway(request.gateway_id) as (connection, old):
                new = registry_pb2.Gateway()
                new.CopyFrom(old)
                new.status = request.status
                if gateway_step(old.status, request.status):
                    await store.set_gateway_status(connection, request.gateway_id, request.status)
                    await store.record_status_change(
                        connection,
                        kind="gateway",
                        subject_id=request.gateway_id,
                        old_status=old.status,
                        new_status=request.status,
                        reason=request.reason,
                        caller=who.uri,
                        at_us=self._clock.now(),
                    )
        if new.status == registry_pb2.GATEWAY_STATUS_REVOKED:
            # It is revoked whatever the ledger hears; what it does not hear now, it hears when it is back.
            with suppress(grpc.aio.AioRpcError, WishRefused):
                await self._sending.bring_up_to_date(request.gateway_id)
        return _answer(old, differences(old, new))

    @override
    async def RevokeBatchKey(
        self, request: registry_pb2.RevokeBatchKeyRequest, context: Context
    ) -> registry_pb2.PutResponse:
        """What it signed and the ledger has not posted, people review."""
        who = caller(context)
        async with refusals(context, _CODES):
            _check_reason(request.reason)
            async with self._change_gateway(request.gateway_id) as (connection, old):
                new = registry_pb2.Gateway()
                new.CopyFrom(old)
                revoke_batch_key(new, request.key_id)
                found = differences(old, new)
                if found:
                    await store.put_gateway(connection, new)
                    await store.record_status_change(
                        connection,
                        kind="batch-key",
                        subject_id=f"{request.gateway_id}/{request.key_id.hex()}",
                        old_status=0,
                        new_status=0,
                        reason=request.reason,
                        caller=who.uri,
                        at_us=self._clock.now(),
                    )
            if found:
                _log.info(
                    "batch key revoked", gateway=request.gateway_id, key=request.key_id.hex(), reason=request.reason
                )
            await self._sending.send([request.gateway_id], dry_run=False)
        return _answer(old, found)

    # --- lists --------------------------------------------------------------------------------------------------------

    @override
    async def ListOperators(
        self, request: registry_pb2.ListOperatorsRequest, context: Context
    ) -> registry_pb2.ListOperatorsResponse:
        """All operators."""
        async with self._pool.connection() as connection:
            return registry_pb2.ListOperatorsResponse(operators=await store.list_operators(connection))

    @override
    async def ListSites(
        self, request: registry_pb2.ListSitesRequest, context: Context
    ) -> registry_pb2.ListSitesResponse:
        """Sites of one operator, or all."""
        async with self._pool.connection() as connection:
            return registry_pb2.ListSitesResponse(sites=await store.list_sites(connection, request.operator_id))

    @override
    async def ListGateways(
        self, request: registry_pb2.ListGatewaysRequest, context: Context
    ) -> registry_pb2.ListGatewaysResponse:
        """Gateways of one operator, or all."""
        async with self._pool.connection() as connection:
            return registry_pb2.ListGatewaysResponse(
                gateways=await store.list_gateways(connection, request.operator_id)
            )

    @override
    async def ListTariffs(
        self, request: registry_pb2.ListTariffsRequest, context: Context
    ) -> registry_pb2.ListTariffsResponse:
        """Every version of every tariff of one operator, or all."""
        async with self._pool.connection() as connection:
            return registry_pb2.ListTariffsResponse(tariffs=await store.list_tariffs(connection, request.operator_id))

    @override
    async def ListDevices(
        self, request: registry_pb2.ListDevicesRequest, context: Context
    ) -> registry_pb2.ListDevicesResponse:
        """Devices of one operator, or all."""
        async with self._pool.connection() as connection:
            return registry_pb2.ListDevicesResponse(devices=await store.list_devices(connection, request.operator_id))

    @override
    async def ListEntitlements(
        self, request: registry_pb2.ListEntitlementsRequest, context: Context
    ) -> registry_pb2.ListEntitlementsResponse:
        """Entitlements of one operator's payers, or all."""
        async with self._pool.connection() as connection:
            return registry_pb2.ListEntitlementsResponse(
                entitlements=await store.list_entitlements(connection, request.operator_id)
            )

    @override
    async def ListDeviceChanges(
        self, request: registry_pb2.ListDeviceChangesRequest, context: Context
    ) -> registry_pb2.ListDeviceChangesResponse:
        """Identities and statuses of devices, as they came to be."""
        async with refusals(context, _CODES):
            if max(request.after_transaction_id, request.after_sequence) > MAX_PLACE:
                raise Unfit("after: no such place")
            async with self._pool.connection() as connection:
                changes = await store.list_device_changes(
                    connection,
                    transaction_id=request.after_transaction_id,
                    sequence=request.after_sequence,
                    limit=min(request.limit or MAX_CHANGES, MAX_CHANGES),
                )
        return registry_pb2.ListDeviceChangesResponse(changes=changes)

    # --- background ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send what is left over, until cancelled."""
        await self._sending.run()

    # --- parts --------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _change(self, operator_id: str) -> AsyncIterator[store.Connection]:
        """One transaction, one at a time per operator."""
        async with self._pool.connection() as connection:
            await store.lock_operator(connection, operator_id)
            yield connection

    @asynccontextmanager
    async def _change_gateway(self, gateway_id: str) -> AsyncIterator[tuple[store.Connection, registry_pb2.Gateway]]:
        """One transaction that changes a gateway, and the gateway as it is; raises ``Refused`` where there is none."""
        async with self._pool.connection() as connection:
            stored = await store.get_gateway(connection, gateway_id)
        if stored is None:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"no gateway {gateway_id!r:.80}")
        async with self._change(stored.gateway.operator_id) as connection:
            stored = await store.get_gateway(connection, gateway_id)
            assert stored is not None, "gateways are never deleted"
            yield connection, stored.gateway

    async def _known_device(self, device_id: str) -> registry_pb2.Device:
        async with self._pool.connection() as connection:
            device = await store.get_device(connection, device_id)
        if device is None:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"no device {device_id!r:.80}")
        return device


def _check_reason(reason: str) -> None:
    if not 1 <= len(reason) <= MAX_REASON_LENGTH:
        raise Unfit(f"reason: 1 to {MAX_REASON_LENGTH} characters; it is kept for ever")


def _answer(old: object | None, found: list[str]) -> registry_pb2.PutResponse:
    if not found:
        change = registry_pb2.CHANGE_NONE
    elif old is None:
        change = registry_pb2.CHANGE_CREATED
    else:
        change = registry_pb2.CHANGE_UPDATED
    return registry_pb2.PutResponse(change=change, differences=found)
