"""Sends what gateways must hear: to the ledger that knows them, by the directives that were wished for, and to the vault that gives them keys."""

from collections.abc import Iterable, Sequence

import grpc
import grpc.aio

from farthing.v1 import ledger_pb2, ledger_pb2_grpc, registry_pb2, vault_pb2, vault_pb2_grpc
from farthing_cloud.database import Pool
from farthing_cloud.refusals import Refused
from farthing_cloud.registry import store
from farthing_cloud.registry.references import precondition
from farthing_cloud.wishes import CALL_TIMEOUT_S, Wishes, WishRefused, keep_sending, waits


class Sending:
    """What the registry has stored, on its way to ledger and vault."""

    def __init__(self, *, pool: Pool, ledger: grpc.aio.Channel, vault: grpc.aio.Channel) -> None:
        self._pool = pool
        self._ledger = ledger_pb2_grpc.LedgerStub(ledger)
        self._vault = vault_pb2_grpc.VaultStub(vault)
        self._wishes = Wishes(pool=pool, ledger=ledger, service="registry")

    async def run(self) -> None:
        """Send what is left over, until cancelled."""
        await keep_sending(self._behind, self.bring_up_to_date)

    async def _behind(self) -> Sequence[str]:
        async with self._pool.connection() as connection:
            return await store.behind_gateways(connection)

    async def bring_up_to_date(self, gateway_id: str, *, parked_too: bool = False) -> None:
        """Ledger, then directives, then vault: each step may be repeated."""
        async with self._pool.connection() as connection:
            stored = await store.get_gateway(connection, gateway_id)
            assert stored is not None, "wishes are written after their gateway"
            site = await store.get_site(connection, stored.gateway.site_id)
            operator = await store.get_operator(connection, stored.gateway.operator_id)
        assert site is not None
        assert operator is not None
        revoked = stored.gateway.status == registry_pb2.GATEWAY_STATUS_REVOKED
        if stored.ledger_revision < stored.revision:
            await self._ledger.CreateGateway(
                ledger_pb2.CreateGatewayRequest(
                    operator_id=stored.gateway.operator_id,
                    site_id=stored.gateway.site_id,
                    gateway_id=gateway_id,
                    currency=operator.currency,
                    exposure_micros=stored.gateway.exposure_micros,
                    batch_key=stored.gateway.batch_key,
                    grant_key=stored.gateway.grant_key,
                    time_zone=site.time_zone,
                    revoked=revoked,
                    least_evidence_class=site.least_evidence_class,
                    revoked_batch_keys=[each.batch_key for each in stored.gateway.earlier_batch_keys if each.revoked],
                ),
                timeout=CALL_TIMEOUT_S,
            )
            async with self._pool.connection() as connection:
                await store.ledger_knows(connection, gateway_id, stored.revision)
        await self._wishes.fulfil(gateway_id, parked_too=parked_too)
        if stored.vault_revision < stored.revision:
            if not revoked:  # one that may never connect again is given no keys
                await self._vault.ProvisionGateway(
                    vault_pb2.ProvisionGatewayRequest(gateway_id=gateway_id), timeout=CALL_TIMEOUT_S
                )
            async with self._pool.connection() as connection:
                await store.vault_knows(connection, gateway_id, stored.revision)

    async def send(self, gateway_ids: Iterable[str], *, dry_run: bool) -> None:
        """Tell them now; raise ``Refused`` where one cannot be told. A dry run tells nobody."""
        if dry_run:
            return
        for gateway_id in gateway_ids:
            try:
                await self.bring_up_to_date(gateway_id, parked_too=True)
            except grpc.aio.AioRpcError as err:
                if not waits(err):
                    raise precondition(f"gateway {gateway_id}: {err.details()}") from err
                raise Refused(
                    grpc.StatusCode.UNAVAILABLE,
                    f"registered, but gateway {gateway_id} could not be told yet ({err.details()}):"
                    " it will be as soon as the services are back; applying again is safe",
                ) from err
            except WishRefused as err:
                raise precondition(f"registered, but the ledger refused to tell gateway {gateway_id}: {err}") from err
