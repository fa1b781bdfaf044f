"""The evidence of one authorization, put together from what the ledger keeps: batches, details, receipts, and what its gateway was told.

The certificates are the registry's; whoever asks adds them. A claim that another gateway's batch raised has no leaves: its statements stand in
that batch, which is the bundle's only one, since they say all of the use.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

from farthing.device.messages import TariffVersion
from farthing.evidence import classes, merkle
from farthing.evidence import leaf as leaves_of
from farthing.evidence.batches import decompress_leaves
from farthing.evidence.bundle import (
    MAX_BATCHES,
    MAX_BUNDLE_SIZE,
    MAX_NAMED,
    Billed,
    Bundle,
    BundledBatch,
    CarriedWord,
    NamedRegister,
    NamedTariff,
    PlacedLeaf,
    Sealed,
)
from farthing.evidence.carried import authorization_of, named_by
from farthing.evidence.detail import EvidenceError
from farthing.evidence.leaf import Leaf
from farthing.ids import AuthorizationId, DeviceId, GatewayId, OperatorId, RegisterId
from farthing.v1 import batch_pb2, directive_pb2
from farthing_cloud.ledger.carried_ends import grant_key_on_record
from farthing_cloud.ledger.core import keys
from farthing_cloud.ledger.core.funds import LedgerRefusal, UnknownName
from farthing_cloud.ledger.core.rows import Claimed, Gateway
from farthing_cloud.ledger.store.interface import DetailedBatch, LedgerStore, Signed

#: Batches and directives read at once: a batch with its detail has at most 8 MiB, most have 100 kB.
BATCHES_AT_ONCE: Final = 8
_DIRECTIVES_AT_ONCE: Final = 500


@dataclass(slots=True)
class _Told:
    """Of what a gateway was told, what the leaves name."""

    tariffs: dict[tuple[str, int], NamedTariff] = field(default_factory=dict)
    registers: dict[tuple[str, int], NamedRegister] = field(default_factory=dict)
    time_zone: str = ""
    #: Under which tariffs the device was ever told yes once and for all.
    standing: set[str] = field(default_factory=set)


class Bundles:
    """Puts bundles together; reads only."""

    def __init__(
        self, store: LedgerStore, *, receipt_keys: Sequence[bytes], key_certificates: Sequence[bytes] = ()
    ) -> None:
        self._store = store
        self._receipt_keys = tuple(receipt_keys)
        self._key_certificates = tuple(key_certificates)

    async def of(
        self,
        operator_id: OperatorId,
        authorization_id: AuthorizationId,
        *,
        gateway_id: GatewayId | None = None,
        last_batches: int = 0,
    ) -> bytes:
        """The bundle as CBOR, its certificates left out; ``last_batches`` 0 stands for all.

        Raises ``UnknownName`` for what nobody claims, ``LedgerRefusal`` where there is nothing to show, or too much.
        """
        claim = await self._claim(operator_id, authorization_id, gateway_id)
        gateway = await self._store.gateway(claim.gateway_id)
        assert gateway is not None  # claims are of gateways that are known
        batches: list[BundledBatch] = []
        carried: CarriedWord | None = None
        if claim.raised_by is None:
            batches, leaves = await self._batches(claim, last_batches or MAX_BATCHES, all_of_them=not last_batches)
            told = await self._told(
                gateway,
                claim,
                {(leaf.tariff.tariff_id, leaf.tariff.version) for leaf in leaves},
                {(leaf.register_id, leaf.register_epoch) for leaf in leaves},
            )
            signed_by = gateway
        else:
            carrier = await self._store.gateway(claim.raised_by)
            assert carrier is not None
            word, named = await self._carried(claim, gateway, carrier)
            told = await self._told(gateway, claim, {(named.tariff_id, named.version)}, {claim.register[1:]})
            carried = replace(word, standing_tariffs=tuple(sorted(told.standing)))
            signed_by = carrier
        gateway_key, *earlier_keys = await self._keys_of(
            signed_by, [each.batch.key_id for each in batches] if carried is None else [carried.batch.batch.key_id]
        )
        bundle = Bundle(
            operator=operator_id,
            gateway=gateway.gateway_id,
            authorization=authorization_id,
            billed=Billed(
                device=DeviceId(claim.register.device_id),
                register_id=RegisterId(claim.register.register_id),
                register_epoch=claim.register.register_epoch,
                register_from=claim.register_from,
                register_to=claim.register_to,
                net_micros=claim.net_micros,
                tax_micros=claim.tax_micros,
                final=claim.final,
                aside=claim.aside,
            ),
            time_zone=told.time_zone,
            gateway_key=gateway_key,
            earlier_gateway_keys=tuple(earlier_keys),
            receipt_keys=self._receipt_keys,
            tariffs=tuple(tariff for _, tariff in sorted(told.tariffs.items())),
            registers=tuple(register for _, register in sorted(told.registers.items())),
            certificates=(),
            batches=tuple(batches),
            key_certificates=self._key_certificates,
            carried=carried,
        )
        encoded = await asyncio.to_thread(bundle.encode)
        if len(encoded) > MAX_BUNDLE_SIZE:
            raise _too_large()
        return encoded

    async def _keys_of(self, gateway: Gateway, signed_by: Sequence[bytes]) -> tuple[bytes, ...]:
        """The keys with these ids, the last one first, each once; the present one where none of them is known."""
        known = await self._store.batch_keys(gateway.gateway_id)
        found = (keys.named(known, each) for each in reversed(signed_by))
        return tuple(dict.fromkeys(each[0].key for each in found if each)) or (gateway.batch_key,)

    async def _claim(
        self, operator_id: OperatorId, authorization_id: AuthorizationId, gateway_id: GatewayId | None
    ) -> Claimed:
        claims = [
            claim
            for claim in await self._store.claims_of(operator_id, authorization_id)
            if gateway_id in (None, claim.gateway_id)
        ]
        if not claims:
            raise UnknownName(f"nobody has billed authorization {authorization_id.hex()}")
        if len(claims) > 1:
            names = ", ".join(claim.gateway_id for claim in claims)
            raise LedgerRefusal(f"several gateways claim it, say which: {names}")
        return claims[0]

    async def _carried(self, claim: Claimed, gateway: Gateway, carrier: Gateway) -> tuple[CarriedWord, TariffVersion]:
        """The carrier's batch that raised the claim, and the tariff version that the word in it names."""
        last = (claim.incarnation, claim.sequence)
        # The newest up to that one.
        (stored,) = await self._store.detailed_batches(
            carrier.gateway_id, claim.authorization_id, last, (last[0], last[1] + 1), 1
        )
        batch = batch_pb2.Batch.FromString(stored.batch.body)
        for end in batch.carried:
            if (
                end.granted_by != claim.gateway_id
                or authorization_of(claim.gateway_id, end.statements) != claim.authorization_id
            ):
                continue
            try:
                tariff, _ = named_by(end.grant, end.statements)
            except EvidenceError as err:
                raise LedgerRefusal(f"what gateway {carrier.gateway_id} carried is not there any more: {err}") from err
            bundled = BundledBatch(
                batch=_sealed(stored.batch),
                receipt=None if stored.receipt is None else _sealed(stored.receipt),
                leaves=(),
            )
            # As it was when this was posted, whatever key signs its grants now.
            grant_key, _ = grant_key_on_record(gateway, end.grant)
            word = CarriedWord(carrier=carrier.gateway_id, grant_key=grant_key, standing_tariffs=(), batch=bundled)
            return word, tariff
        raise LedgerRefusal(f"batch {last[0]}/{last[1]} of gateway {carrier.gateway_id} carries no word of it")

    async def _batches(self, claim: Claimed, most: int, *, all_of_them: bool) -> tuple[list[BundledBatch], list[Leaf]]:
        """Its batches in the order of sealing, and its leaves in them."""
        last = (claim.incarnation, claim.sequence)
        found: list[BundledBatch] = []
        own: list[Leaf] = []
        before, size = None, 0
        revoked = await self._store.revoked(claim.gateway_id)
        batch_keys = await self._store.batch_keys(claim.gateway_id)
        while len(found) < most:
            page = await self._store.detailed_batches(
                claim.gateway_id, claim.authorization_id, last, before, min(BATCHES_AT_ONCE, most - len(found))
            )
            for stored in page:
                # Below device-signed nothing is ever proven: the bundle says what it shows instead.
                if stored.proven or _evidence_class(stored, claim.authorization_id) == classes.DEVICE_SIGNED:
                    key_revoked = any(key.revoked_at is not None for key in keys.named(batch_keys, stored.batch.key_id))
                    _check_kept(stored, last, gateway_revoked=revoked, key_revoked=key_revoked)
                bundled, leaves = await asyncio.to_thread(_bundled, stored, claim.authorization_id)
                found.append(bundled)
                own.extend(leaves)
                before = (stored.incarnation, stored.sequence)
                size += len(stored.batch.body) + sum(map(len, (leaf.leaf for leaf in bundled.leaves)))
                if size > MAX_BUNDLE_SIZE:
                    raise _too_large()
            if not page:
                break
        else:
            more = await self._store.detailed_batches(claim.gateway_id, claim.authorization_id, last, before, 1)
            if more and all_of_them:
                raise _too_large()
        return found[::-1], own

    async def _told(
        self, gateway: Gateway, claim: Claimed, tariffs: set[tuple[str, int]], registers: set[tuple[str, int]]
    ) -> _Told:
        if len(tariffs) > MAX_NAMED:
            raise _too_large()
        told, version = _Told(time_zone=gateway.time_zone), 0
        while rows := await self._store.directives(gateway.gateway_id, version, _DIRECTIVES_AT_ONCE):
            for row in rows:
                _learn(told, directive_pb2.Directive.FromString(row.body), claim, tariffs, registers)
            version = rows[-1].version
        return told


def _too_large() -> LedgerRefusal:
    return LedgerRefusal(
        f"more than {MAX_BATCHES} batches or {MAX_BUNDLE_SIZE} bytes: ask for its last batches only (--last)"
    )


def _evidence_class(stored: DetailedBatch, authorization_id: AuthorizationId) -> int:
    return classes.class_of(batch_pb2.Batch.FromString(stored.batch.body), authorization_id)


def _check_kept(stored: DetailedBatch, last: tuple[int, int], *, gateway_revoked: bool, key_revoked: bool) -> None:
    """Nothing is shown of a batch whose detail was not verified, or is not kept any more."""
    name = f"batch {stored.incarnation}/{stored.sequence}"
    if not stored.proven and (gateway_revoked or key_revoked):
        what = (
            "its gateway is revoked: of what it"
            if gateway_revoked
            else "the key it is signed with is revoked: of what that"
        )
        raise LedgerRefusal(
            f"{name} is posted and not proven as a whole, and {what} sealed, only what devices signed is posted from then on, after review"
            " ('gateways review'), and no bundle is made of a part"
        )
    if not stored.proven:
        raise LedgerRefusal(
            f"{name} is posted and not proven yet: its gateway has not uploaded its detail, or that did not hold"
        )
    if stored.leaves is None and stored.leaf_count:
        assert (stored.incarnation, stored.sequence) == last  # the others were found by their detail
        raise LedgerRefusal(f"{name} is proven, and its detail is not kept any more")


def _bundled(stored: DetailedBatch, authorization_id: AuthorizationId) -> tuple[BundledBatch, list[Leaf]]:
    leaves = [] if stored.leaves is None else decompress_leaves(stored.leaves)
    read = [(index, leaves_of.decode(data)) for index, data in enumerate(leaves)]
    mine = [(index, leaf) for index, leaf in read if leaf.authorization == authorization_id]
    paths = merkle.inclusion_proofs(leaves, [index for index, _ in mine])
    bundled = BundledBatch(
        batch=_sealed(stored.batch),
        receipt=None if stored.receipt is None else _sealed(stored.receipt),
        leaves=tuple(
            PlacedLeaf(index=index, leaf=leaves[index], path=tuple(path))
            for (index, _), path in zip(mine, paths, strict=True)
        ),
    )
    return bundled, [leaf for _, leaf in mine]


def _sealed(signed: Signed) -> Sealed:
    return Sealed(body=signed.body, signature=signed.signature, key_id=signed.key_id)


def _learn(
    told: _Told,
    directive: directive_pb2.Directive,
    claim: Claimed,
    tariffs: set[tuple[str, int]],
    registers: set[tuple[str, int]],
) -> None:
    """Take in the next directive, if it says something of these; a later one replaces an earlier one."""
    match directive.WhichOneof("body"):
        case "welcome":
            told.time_zone = directive.welcome.time_zone
        case "tariff":
            record = directive.tariff
            # What is no UTF-8 stays unknown, and fails the check that names it.
            if (record.tariff_id, record.version) not in tariffs:
                return
            with suppress(UnicodeDecodeError):
                told.tariffs[record.tariff_id, record.version] = NamedTariff(
                    tariff_id=record.tariff_id, version=record.version, ocpi_json=record.ocpi_json.decode()
                )
        case "device" if directive.device.device_id == claim.register.device_id:
            if (
                directive.device.profile == directive_pb2.DEVICE_PROFILE_STANDING
                and directive.device.standing_account_id
            ):
                told.standing.add(directive.device.tariff_id)
            for register in directive.device.registers:
                if (register.register_id, register.register_epoch) in registers:
                    told.registers[register.register_id, register.register_epoch] = NamedRegister(
                        device=DeviceId(claim.register.device_id),
                        register_id=RegisterId(register.register_id),
                        register_epoch=register.register_epoch,
                        unit=register.unit,
                        modulus=register.modulus,
                    )
        case _:
            pass
