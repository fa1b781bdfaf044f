"""Read a batch's carried ends: what proves itself becomes a use that the ledger bills, the rest says why not.

Also carried: a one-shot use's intent with its yes, and the readings of a standing authorization, which have none. The keys are those on record of the gateway that gave the authorization, and of the devices that it was told of.
"""

import asyncio
from collections.abc import Callable

from farthing.clock import Instant
from farthing.device.cose import VerifyingKey, decode_sign1, key_id
from farthing.device.messages import FLOOR
from farthing.device.reject import MessageError
from farthing.evidence import carried as evidence
from farthing.evidence.detail import EvidenceError
from farthing_cloud.ledger.core.carried import Carried, CarriedUse, NotProven
from farthing_cloud.ledger.core.received import ReceivedBatch, ReceivedEnd
from farthing_cloud.ledger.core.rows import Gateway, RegisterKey
from farthing_cloud.ledger.facts import Facts, GatewayFacts
from farthing_cloud.ledger.store.interface import LedgerStore


def grant_key_on_record(gateway: Gateway, grant: bytes) -> tuple[bytes, Instant | None]:
    """The key of a gateway that a grant (COSE_Sign1) names, and until when it signed; the present one, without an end, where it names none before it."""
    try:
        named = decode_sign1(grant).kid
    except MessageError:
        named = b""
    for each in gateway.earlier_grant_keys:
        if key_id(each.key) == named:
            return each.key, each.until
    return gateway.grant_key, None


class CarriedEnds:
    """Reads carried ends against what a store knows."""

    def __init__(self, store: LedgerStore) -> None:
        self._store = store
        self._facts = Facts(store)

    async def read(self, batch: ReceivedBatch) -> tuple[Carried, ...]:
        """One for each of the batch's carried ends, in order."""
        out: list[Carried] = []
        for index, end in enumerate(batch.carried):
            try:
                out.append(await self._read(batch, end))
            except EvidenceError as err:
                out.append(NotProven(index=index, reason=err.rule))
        return tuple(out)

    async def _read(self, batch: ReceivedBatch, end: ReceivedEnd) -> CarriedUse:
        if end.granted_by == batch.gateway_id:
            raise EvidenceError("its own authorization: that is adopted, not carried")
        gateway = await self._store.gateway(end.granted_by)
        carrier = await self._store.gateway(batch.gateway_id)
        assert carrier is not None
        if gateway is None or (gateway.operator_id, gateway.currency) != (carrier.operator_id, carrier.currency):
            raise EvidenceError("the gateway that gave it is unknown to this operator")
        if await self._store.revoked(gateway.gateway_id):
            # When it was signed, only its signer says: a thief dates a grant as he likes.
            raise EvidenceError("the gateway that gave it is revoked: its grants prove nothing any more")
        facts = await self._facts.of(gateway.gateway_id)
        # Some signatures each: not on the event loop.
        return await asyncio.to_thread(prove, end, gateway, facts)


def _key_that_signed(gateway: Gateway, grant: bytes) -> tuple[VerifyingKey, Instant | None]:
    on_record, until = grant_key_on_record(gateway, grant)
    try:
        return VerifyingKey.from_spki(on_record), until
    except MessageError as err:
        raise EvidenceError("the grant key on record is none") from err


def prove(
    end: ReceivedEnd,
    gateway: Gateway,
    facts: GatewayFacts,
    key_that_signed: Callable[[Gateway, bytes], tuple[VerifyingKey, Instant | None]] = _key_that_signed,
) -> CarriedUse:
    """The use that a carried end proves; raise ``EvidenceError`` for one that does not."""
    if not end.grant:
        return _standing(end, gateway, facts)
    grant_key, until = key_that_signed(gateway, end.grant)
    proven = evidence.verify(
        gateway.gateway_id,
        end.granted_incarnation,
        end.statements,
        end.grant,
        grant_key=grant_key,
        device_key=facts.device_key,
        tariff=facts.tariff,
        register=facts.register,
        time_zone=gateway.time_zone,
    )
    grant = proven.grant
    if until is not None and proven.first.at > until:
        # The device's own word, so whoever has the old key cannot date it.
        raise EvidenceError("a grant by a key that was replaced before its use began")
    if grant.currency != gateway.currency:
        raise EvidenceError("the grant is in another currency than its gateway")
    return CarriedUse(
        authorization_id=grant.authorization,
        granted_by=gateway.gateway_id,
        account_id=grant.account,
        register=RegisterKey(
            device_id=grant.recipient, register_id=grant.register_id, register_epoch=grant.register_epoch
        ),
        register_from=proven.register_from,
        register_to=proven.register_to,
        parts=tuple((part.rate_ppm, part.net_micros, part.tax_micros) for part in proven.priced.parts),
        held=tuple((held.quota_id, held.amount_micros) for held in grant.held if held.quota_id != FLOOR),
        floor_micros=sum(held.amount_micros for held in grant.held if held.quota_id == FLOOR),
        granted_incarnation=end.granted_incarnation,
        final=True,
        billed_micros=grant.net_micros + grant.tax_micros,
        covered_micros=grant.net_micros + grant.tax_micros + sum(held.amount_micros for held in grant.held),
        statements=end.statements,
    )


def _standing(end: ReceivedEnd, gateway: Gateway, facts: GatewayFacts) -> CarriedUse:
    """What readings prove that no grant covers: the device's record says whose they are."""
    proven = evidence.verify_standing(
        gateway.gateway_id,
        end.statements,
        device_key=facts.device_key,
        tariff=facts.tariff,
        register=facts.register,
        standing=facts.standing,
        time_zone=gateway.time_zone,
    )
    first = proven.first
    named = facts.tariff(first.tariff.tariff_id, first.tariff.version)
    if named is None or named.currency != gateway.currency:
        raise EvidenceError("the tariff is in another currency than its gateway")
    return CarriedUse(
        authorization_id=proven.authorization,
        granted_by=gateway.gateway_id,
        account_id=facts.standing_account(first.device),
        register=RegisterKey(
            device_id=first.device,
            register_id=first.register.register_id,
            register_epoch=first.register.register_epoch,
        ),
        register_from=proven.register_from,
        register_to=proven.register_to,
        parts=tuple((part.rate_ppm, part.net_micros, part.tax_micros) for part in proven.priced.parts),
        held=(),
        floor_micros=0,
        granted_incarnation=gateway.incarnation,
        final=False,
        billed_micros=proven.priced.gross_micros,
        covered_micros=0,
        statements=end.statements,
    )
