"""The vault's calls.

Rule 1: the original of a token is in memory for the length of one call, and at rest only sealed by a key that never leaves
the cloud's token; no error, log line, listing or directive carries it.
Rule 2: gateways know a token by its HMAC under their site's key (token_ref), the ledger by a random token_id.
Rule 3: what gateways must hear is written with what causes it; the same call again sends what was left unsent.
"""

import asyncio
import secrets
from collections.abc import Iterable, Sequence

import grpc
import grpc.aio
import structlog
from typing_extensions import override

from farthing.hsm import Token
from farthing.ids import IdError, parse_id
from farthing.v1 import (
    directive_pb2,
    ledger_pb2,
    registry_pb2,
    registry_pb2_grpc,
    vault_pb2,
    vault_pb2_grpc,
)
from farthing_cloud.config import VaultSection
from farthing_cloud.database import Pool
from farthing_cloud.refusals import Context, Refused, refusals
from farthing_cloud.vault import store
from farthing_cloud.wishes import CALL_TIMEOUT_S, Wishes, WishRefused, add_wish, keep_sending, waits

#: A card's UID has 4 to 10 bytes, a plate or app code some dozens of characters; statements commit to no more than this.
MAX_TOKEN_SIZE = 256
MAX_LABEL_LENGTH = 200
MAX_REASON_LENGTH = 200
#: 128 random bits: nobody guesses one, and two never meet.
TOKEN_ID_SIZE = 16
FIRST_EPOCH = 1

#: Keys in the cloud's token, made at the first need.
SEALING_KEY = "vault-seal"
LOOKUP_KEY = "vault-lookup"

_log = structlog.stdlib.get_logger(__name__)


def site_key_label(site_id: str, epoch: int) -> str:
    """The label of a site's HMAC key in the cloud's token."""
    return f"site-key/{site_id}/{epoch}"


class VaultServicer(vault_pb2_grpc.VaultServicer):
    """See ``vault.proto``."""

    def __init__(
        self, *, pool: Pool, token: Token, ledger: grpc.aio.Channel, registry: grpc.aio.Channel, settings: VaultSection
    ) -> None:
        self._pool = pool
        self._token = token
        self._registry = registry_pb2_grpc.RegistryStub(registry)
        self._wishes = Wishes(pool=pool, ledger=ledger, service="vault")
        self._settings = settings
        self._making_keys = asyncio.Lock()

    # --- calls --------------------------------------------------------------------------------------------------------

    @override
    async def PutToken(self, request: vault_pb2.PutTokenRequest, context: Context) -> vault_pb2.PutTokenResponse:
        """Take a token in; the same token of one operator again is the same token_id."""
        async with refusals(context):
            _check_ids(operator_id=request.operator_id, account_id=request.account_id)
            if not 1 <= len(request.token) <= MAX_TOKEN_SIZE:
                raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"token: 1 to {MAX_TOKEN_SIZE} bytes")
            if not 1 <= len(request.label) <= MAX_LABEL_LENGTH:
                raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"label: 1 to {MAX_LABEL_LENGTH} characters")
            if _shows(request.label, request.token):
                raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "label: it shows the token; choose another name")
            lookup = await self._lookup(request.operator_id, request.token)
            gateway_ids: list[str] = []
            async with self._pool.connection() as connection:
                await store.lock_operator(connection, request.operator_id)
                found = await store.find_token(connection, request.operator_id, lookup)
                gateways = await store.gateways_of_operator(connection, request.operator_id)
                gateway_ids = [gateway.gateway_id for gateway in gateways]
                if found is None:
                    token_id = secrets.token_hex(TOKEN_ID_SIZE)
                    change = registry_pb2.CHANGE_CREATED
                    if not request.dry_run:
                        await self._check_room(connection, request.operator_id)
                        await store.add_token(
                            connection,
                            token_id=token_id,
                            operator_id=request.operator_id,
                            lookup=lookup,
                            account_id=request.account_id,
                            label=request.label,
                            sealed=await self._seal(token_id, request.token),
                        )
                else:
                    token_id = found.token_id
                    same = (found.account_id, found.label) == (request.account_id, request.label)
                    change = registry_pb2.CHANGE_NONE if same else registry_pb2.CHANGE_UPDATED
                    if not same and not request.dry_run:
                        await store.update_token(
                            connection, token_id=token_id, account_id=request.account_id, label=request.label
                        )
                if (found is None or found.account_id != request.account_id) and not request.dry_run:
                    await self._want_token(
                        connection, request.operator_id, gateways, token_id, request.account_id, request.token
                    )
            if not request.dry_run:
                await self._send(gateway_ids)
        # A dry run made no token: an id of nothing would only mislead.
        unmade = found is None and request.dry_run
        return vault_pb2.PutTokenResponse(change=change, token_id="" if unmade else token_id)

    @override
    async def DenyToken(self, request: vault_pb2.DenyTokenRequest, context: Context) -> vault_pb2.DenyTokenResponse:
        """Every gateway of the operator refuses it from now on, for ever."""
        async with refusals(context):
            if not 1 <= len(request.reason) <= MAX_REASON_LENGTH:
                raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"reason: 1 to {MAX_REASON_LENGTH} characters")
            gateway_ids: list[str] = []
            async with self._pool.connection() as connection:
                token = await store.get_token(connection, request.token_id)
                if token is None:
                    raise Refused(grpc.StatusCode.NOT_FOUND, f"no token {request.token_id!r:.80}")
                await store.lock_operator(connection, token.operator_id)
                token = await store.get_token(connection, request.token_id)
                assert token is not None, "tokens are never deleted"
                gateways = await store.gateways_of_operator(connection, token.operator_id)
                gateway_ids = [gateway.gateway_id for gateway in gateways]
                if token.denied_reason is None:
                    await store.deny_token(connection, token.token_id, request.reason)
                    original = await self._unseal(token)
                    await self._want_denied(
                        connection, token.operator_id, gateways, token.token_id, original, request.reason
                    )
            await self._send(gateway_ids)
        return vault_pb2.DenyTokenResponse()

    @override
    async def ListTokens(self, request: vault_pb2.ListTokensRequest, context: Context) -> vault_pb2.ListTokensResponse:
        """Names and ids; never a token."""
        async with self._pool.connection() as connection:
            return vault_pb2.ListTokensResponse(tokens=await store.list_tokens(connection, request.operator_id))

    @override
    async def ProvisionGateway(
        self, request: vault_pb2.ProvisionGatewayRequest, context: Context
    ) -> vault_pb2.ProvisionGatewayResponse:
        """Wrap the site's key for a gateway and tell it every token of its operator; again only for another unwrap key."""
        async with refusals(context):
            gateway = await self._registered(request.gateway_id)
            async with self._pool.connection() as connection:
                await store.lock_operator(connection, gateway.operator_id)
                known = await store.get_gateway_unwrap_key(connection, gateway.gateway_id)
                if known != gateway.unwrap_key:
                    await self._provision(connection, gateway)
            await self._send([request.gateway_id])
        return vault_pb2.ProvisionGatewayResponse()

    async def run(self) -> None:
        """Send what is left over, until cancelled."""
        await keep_sending(self._wishes.wishing, self._wishes.fulfil)

    # --- keys ---------------------------------------------------------------------------------------------------------

    async def _make_keys(self) -> None:
        """Make the two keys of the vault where the cloud's token does not have them yet."""
        async with self._making_keys:
            if not self._token.has_key(SEALING_KEY):
                await self._token.generate_sealing_key(SEALING_KEY)
            if not self._token.has_key(LOOKUP_KEY):
                await self._token.generate_hmac_key(LOOKUP_KEY)

    async def _lookup(self, operator_id: str, token: bytes) -> bytes:
        await self._make_keys()
        # The separator cannot be in an id, so no operator's token reads as another's.
        return await self._token.hmac(LOOKUP_KEY, operator_id.encode() + b"\x00" + token)

    async def _seal(self, token_id: str, original: bytes) -> bytes:
        return await self._token.seal(SEALING_KEY, original, context=token_id.encode())

    async def _unseal(self, token: store.SealedToken) -> bytes:
        return await self._token.unseal(SEALING_KEY, token.sealed, context=token.token_id.encode())

    async def _token_ref(self, gateway: store.ToldGateway, original: bytes) -> bytes:
        return await self._token.hmac(site_key_label(gateway.site_id, gateway.epoch), original)

    # --- parts --------------------------------------------------------------------------------------------------------

    async def _provision(self, connection: store.Connection, gateway: registry_pb2.Gateway) -> None:
        epoch = await store.get_site_key_epoch(connection, gateway.site_id)
        if epoch is None:
            epoch = FIRST_EPOCH
            await store.add_site_key(connection, site_id=gateway.site_id, operator_id=gateway.operator_id, epoch=epoch)
        label = site_key_label(gateway.site_id, epoch)
        # In the token before it is in the table, perhaps, if we crash in between: the next call finds it there.
        if not self._token.has_key(label):
            await self._token.generate_hmac_key(label)
        wrapped = await self._token.wrap_hmac_key(label, gateway.unwrap_key)
        await store.put_gateway(
            connection,
            gateway_id=gateway.gateway_id,
            operator_id=gateway.operator_id,
            site_id=gateway.site_id,
            unwrap_key=gateway.unwrap_key,
        )
        await add_wish(
            connection,
            [gateway.gateway_id],
            "site-key",
            ledger_pb2.IssueDirectiveRequest(
                operator_id=gateway.operator_id,
                site_key=directive_pb2.SiteKey(
                    site_id=gateway.site_id,
                    epoch=epoch,
                    ephemeral_public_key=wrapped.ephemeral_public_key,
                    wrapped_key=wrapped.wrapped,
                ),
            ),
        )
        told = [store.ToldGateway(gateway_id=gateway.gateway_id, site_id=gateway.site_id, epoch=epoch)]
        for token in await store.tokens_of_operator(connection, gateway.operator_id):
            original = await self._unseal(token)
            await self._want_token(connection, gateway.operator_id, told, token.token_id, token.account_id, original)
            if token.denied_reason is not None:
                await self._want_denied(
                    connection, gateway.operator_id, told, token.token_id, original, token.denied_reason
                )

    async def _want_token(
        self,
        connection: store.Connection,
        operator_id: str,
        gateways: Sequence[store.ToldGateway],
        token_id: str,
        account_id: str,
        original: bytes,
    ) -> None:
        for gateway in gateways:
            await add_wish(
                connection,
                [gateway.gateway_id],
                f"token/{token_id}",
                ledger_pb2.IssueDirectiveRequest(
                    operator_id=operator_id,
                    token=directive_pb2.TokenRecord(
                        token_ref=await self._token_ref(gateway, original),
                        key_epoch=gateway.epoch,
                        token_id=token_id,
                        account_id=account_id,
                    ),
                ),
            )

    async def _want_denied(
        self,
        connection: store.Connection,
        operator_id: str,
        gateways: Sequence[store.ToldGateway],
        token_id: str,
        original: bytes,
        reason: str,
    ) -> None:
        for gateway in gateways:
            await add_wish(
                connection,
                [gateway.gateway_id],
                f"token-denied/{token_id}",
                ledger_pb2.IssueDirectiveRequest(
                    operator_id=operator_id,
                    token_denied=directive_pb2.TokenDenied(
                        token_ref=await self._token_ref(gateway, original), key_epoch=gateway.epoch, reason=reason
                    ),
                ),
            )

    async def _check_room(self, connection: store.Connection, operator_id: str) -> None:
        if await store.count_tokens(connection, operator_id) >= self._settings.max_tokens_per_operator:
            raise Refused(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"operator {operator_id} has {self._settings.max_tokens_per_operator} tokens:"
                " raise [vault] max_tokens_per_operator",
            )

    async def _registered(self, gateway_id: str) -> registry_pb2.Gateway:
        answer = await self._registry.ListGateways(registry_pb2.ListGatewaysRequest(), timeout=CALL_TIMEOUT_S)
        for gateway in answer.gateways:
            if gateway.gateway_id == gateway_id:
                return gateway
        raise Refused(grpc.StatusCode.NOT_FOUND, f"the registry knows no gateway {gateway_id!r:.80}")

    async def _send(self, gateway_ids: Iterable[str]) -> None:
        for gateway_id in gateway_ids:
            try:
                await self._wishes.fulfil(gateway_id, parked_too=True)
            except grpc.aio.AioRpcError as err:
                if not waits(err):
                    raise
                raise Refused(
                    grpc.StatusCode.UNAVAILABLE,
                    f"kept, but gateway {gateway_id} could not be told yet ({err.details()}):"
                    " it will be as soon as the ledger is back; the same call again is safe",
                ) from err
            except WishRefused as err:
                raise Refused(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    f"kept, but the ledger refused to tell gateway {gateway_id}: {err}",
                ) from err


def _check_ids(**ids: str) -> None:
    for name, value in ids.items():
        try:
            parse_id(value)
        except IdError as err:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"{name}: {err}") from err


def _shows(label: str, token: bytes) -> bool:
    """Whether a label for people gives the token away, as text or in hex."""
    text = token.decode("utf-8", "replace").casefold()
    lowered = label.casefold()
    return (len(text) >= MIN_TELLING_LENGTH and text in lowered) or token.hex() in lowered.replace(":", "")


#: A token of one or two characters is in many words by chance.
MIN_TELLING_LENGTH = 4
