"""A day of charging under a wrong price, with detail as gateways seal it: what mass corrections are tried on, over any store."""

from collections import defaultdict
from dataclasses import dataclass, field

from ledger_story import EUR, OP, TERMS

from farthing.clock import QUARTER_US, SECOND_US, Instant, quarter_of
from farthing.device import cose
from farthing.device import messages as m
from farthing.evidence.batches import compress_leaves
from farthing.evidence.leaf import Leaf
from farthing.ids import AccountId, AuthorizationId, DeviceId, GatewayId, RegisterId, SiteId, authorization_id
from farthing.tariff import Tariff, Use, parse, price
from farthing.v1 import batch_pb2, directive_pb2
from farthing_cloud.ledger.core.batches import ChainStep
from farthing_cloud.ledger.core.funds import Funding
from farthing_cloud.ledger.core.plans import Wish
from farthing_cloud.ledger.core.received import receive
from farthing_cloud.ledger.core.rows import AccountStatus
from farthing_cloud.ledger.core.windows import SplitRule
from farthing_cloud.ledger.operations import Ledger
from farthing_cloud.ledger.plans import CorrectionPlans
from farthing_cloud.ledger.store.interface import Detail, LedgerStore

G1, S1 = GatewayId("G1"), SiteId("S1")
DAY = Instant(1_000 * 96 * QUARTER_US)
NEXT_DAY = Instant(DAY + 96 * QUARTER_US)
LATER = Instant(NEXT_DAY + 1)
MINUTE = 60 * SECOND_US


def tariff(flat: str, kwh: str, *, vat: int = 20, minute: str = "") -> bytes:
    """A tariff of a start price, a price of energy, and maybe one of time."""
    components = [f'{{"type": "FLAT", "price": {flat}, "vat": {vat}, "step_size": 1}}'] if flat else []
    components.append(f'{{"type": "ENERGY", "price": {kwh}, "vat": {vat}, "step_size": 1}}')
    if minute:
        components.append(f'{{"type": "TIME", "price": {minute}, "vat": {vat}, "step_size": 1}}')
    return (
        f'{{"id": "chg", "currency": "EUR", "elements": [{{"price_components": [{", ".join(components)}]}}]}}'.encode()
    )


#: What was billed by mistake, and what was meant: 0.60 dearer at the start, 0.10 cheaper a kWh.
WRONG, RIGHT = tariff("0.80", "0.30"), tariff("0.20", "0.40")
SPLIT = SplitRule(
    rule_version=1, parts=(("agency/A", 600_000), ("fee/op", 400_000)), remainder_path="agency/A"
)  # fmt: skip


@dataclass
class Charge:
    """One use: its records as (minutes from the start, Wh); the last one closes it, unless it is still going on."""

    number: int
    begins: Instant
    records: list[tuple[int, int]]
    account: str = "P"
    tariff_id: str = "chg"
    version: int = 1
    over: bool = True
    leaves: list[Leaf] = field(default_factory=list)

    @property
    def device(self) -> DeviceId:
        return DeviceId(f"c{self.number}")

    @property
    def authorization(self) -> AuthorizationId:
        return AuthorizationId(authorization_id(self.device, 0, 1, G1))

    def priced(self, by: Tariff) -> list[Leaf]:
        """Its records' leaves, one line each."""
        names = m.TariffVersion(tariff_id=self.tariff_id, version=self.version)

        def said(kind: type, counter: int, at: int, count: int, **more: object) -> bytes:
            register = m.RegisterValue(register_id="1", register_epoch=0, value=count)
            statement = kind(
                recipient=G1, device=self.device, device_epoch=0, counter=counter, at=Instant(at), register=register,
                commitment=bytes(32), **more,
            )  # fmt: skip
            return cose.encode_sign1(bytes(8), m.encode(statement), bytes(64))

        first = said(m.Intent, 1, self.begins, 0, incarnation=1)
        leaves, before, so_far = [], 0, (0, 0)
        for index, (minutes, wh) in enumerate(self.records):
            closing = self.over and index == len(self.records) - 1
            at = Instant(self.begins + minutes * MINUTE)
            use = Use(unit="Wh", start=0, end=wh, started_at=self.begins, ended_at=at)
            total = price(by, use, closing=closing)
            kind = m.End if closing else m.Reading
            last = said(kind, 2 + index, at, wh, authorization=self.authorization, tariff=names)
            leaves.append(
                Leaf(
                    authorization=self.authorization,
                    line=0,
                    device=self.device,
                    register_id=RegisterId("1"),
                    register_epoch=0,
                    register_from=before,
                    register_to=wh,
                    net_micros=total.net_micros - so_far[0],
                    tax_micros=total.tax_micros - so_far[1],
                    total_net_micros=total.net_micros,
                    total_tax_micros=total.tax_micros,
                    closing=closing,
                    tariff=names,
                    at=at,
                    statements=(first, last),
                    grant=None,
                    traceparent=None,
                )
            )
            before, so_far = wh, (total.net_micros, total.tax_micros)
        return leaves


class Day:
    """One gateway, its accounts, and the batches it sealed."""

    def __init__(self, store: LedgerStore) -> None:
        self.store = store
        self.ledger = Ledger(store, terms=TERMS, receipt_keys=())
        self.plans = CorrectionPlans(self.ledger)
        self.previous = bytes(32)
        self.sequence = 0

    async def open(self, charges: list[Charge], *, funds_micros: int = 10**9) -> None:
        await self.ledger.put_gateway(
            gateway_id=G1, operator_id=OP, site_id=S1, currency=EUR, exposure_micros=10**12, batch_key=b"",
            grant_key=b"", time_zone="Europe/Berlin", now=DAY,
        )  # fmt: skip
        for name in sorted({charge.account for charge in charges}):
            await self.ledger.put_account(
                operator_id=OP, account_id=AccountId(name), currency=EUR, credit_limit_micros=0,
                debt_limit_micros=1_000_000, status=AccountStatus.ACTIVE, preload_micros=0, now=DAY,
            )  # fmt: skip
            funding = Funding(
                operator_id=OP, account_id=AccountId(name), currency=EUR, amount_micros=funds_micros,
                payment_id=f"pay-{name}", source="bank/main",
            )  # fmt: skip
            await self.ledger.fund(funding, now=DAY)
        for charge in charges:
            register = directive_pb2.RegisterRecord(register_id="1", register_epoch=0, unit="Wh", modulus=10**9)
            record = directive_pb2.DeviceRecord(device_id=charge.device, registers=[register])
            await self.ledger.issue_directive(OP, G1, record, idempotency_key=charge.device, now=DAY)

    async def bill(
        self, leaves: list[tuple[Charge, Leaf, bool]], *, prove: bool = True, sealed_at: Instant = NEXT_DAY
    ) -> None:
        """Seal, post and prove a batch of (use, record, whether the claim is final)."""
        by_line: dict[tuple[str, str, int, int], list[tuple[Charge, Leaf]]] = defaultdict(list)
        for charge, leaf, _ in leaves:
            by_line[charge.account, charge.tariff_id, charge.version, quarter_of(leaf.at)].append((charge, leaf))
        self.sequence += 1
        batch = batch_pb2.Batch(
            operator_id=OP, site_id=S1, gateway_id=G1, incarnation=1, start_id=bytes(16), sequence=self.sequence,
            previous_hash=self.previous, first_position=1, last_position=1, merkle_root=bytes(32),
            leaf_count=len(leaves), sealed_at_us=sealed_at,
        )  # fmt: skip
        encoded: list[bytes] = []
        shares: dict[bytes, list[batch_pb2.Share]] = defaultdict(list)
        for number, ((account, tariff_id, version, quarter), mine) in enumerate(sorted(by_line.items())):
            batch.lines.append(
                batch_pb2.Line(
                    account_id=account,
                    currency=EUR,
                    tariff_id=tariff_id,
                    tariff_version=version,
                    tax_rate_ppm=200_000,
                    evidence_class=batch_pb2.EVIDENCE_CLASS_DEVICE_SIGNED,
                    quarter=quarter,
                    overrun=True,
                    net_micros=sum(leaf.net_micros for _, leaf in mine),
                    tax_micros=sum(leaf.tax_micros for _, leaf in mine),
                    first_leaf=len(encoded),
                    leaf_count=len(mine),
                )
            )
            for charge, leaf in mine:
                encoded.append(leaf.encode())
                shares[charge.authorization].append(
                    batch_pb2.Share(line=number, net_micros=leaf.net_micros, tax_micros=leaf.tax_micros)
                )
        newest: dict[bytes, tuple[Charge, Leaf, bool]] = {}
        for charge, leaf, final in leaves:
            newest[charge.authorization] = (charge, leaf, final)
        for authorization, (charge, leaf, final) in newest.items():
            batch.claims.append(
                batch_pb2.Claim(
                    authorization_id=authorization,
                    device_id=charge.device,
                    register_id="1",
                    register_from=0,
                    register_to=leaf.register_to,
                    net_micros=leaf.total_net_micros,
                    tax_micros=leaf.total_tax_micros,
                    final=final,
                    shares=shares[authorization],
                )
            )
        received = receive(batch.SerializeToString(deterministic=True), signature=b"", key_id=b"", currency=EUR)
        self.previous = received.batch_hash
        outcome = await self.ledger.post_batch(received, currency=EUR, now=sealed_at)
        assert outcome.step is ChainStep.NEXT
        if prove:
            detail = Detail(authorizations=tuple(map(AuthorizationId, newest)), leaves=compress_leaves(encoded))
            await self.ledger.prove(G1, 1, received.sequence, events=(), now=sealed_at, detail=detail)

    async def bill_whole(self, charges: list[Charge], *, by: bytes = WRONG, prove: bool = True) -> None:
        """All records of these uses in one batch."""
        tariff_of = parse(by)
        leaves = []
        for charge in charges:
            charge.leaves = charge.priced(tariff_of)
            leaves += [(charge, leaf, charge.over) for leaf in charge.leaves]
        await self.bill(leaves, prove=prove)


def wish(by: bytes = RIGHT, **changes: object) -> Wish:
    """The plan for the day."""
    fields = {
        "operator_id": OP, "site_id": S1, "tariff_id": "chg", "tariff_versions": frozenset({1}), "from_at": DAY,
        "to_at": NEXT_DAY, "by_ocpi_json": by, "by_name": "right.json", "reason": "the price of tomorrow",
    }  # fmt: skip
    return Wish(**{**fields, **changes})
