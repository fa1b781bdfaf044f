"""The worked example's day, played through two real edge cores: its tables T1, T2 and T3, and the batches behind them."""

from edge_playbook import Gateway, M, Meter, Policy, clock, fund

from farthing.device.messages import AnswerStatus
from farthing.money import format_micros
from farthing.refusal import Refusal
from farthing.v1 import batch_pb2, directive_pb2
from farthing_edge.authorization.commands import Tick


def eur(micros: int) -> str:
    return format_micros(micros) if micros else "0"


def held_text(holds: dict[str, int]) -> str:
    return " + ".join(f"{quota} {eur(amount)}" for quota, amount in holds.items()) or "-"


class Day:
    """What the example says of the day, in its own words."""

    def __init__(self, quota_ids: dict[str, str] | None = None) -> None:
        #: What the page calls q1, q2, q3 may have other names where a ledger granted them.
        self.quota_ids = quota_ids or {name: name for name in ("q1", "q2", "q3")}
        self.gateways = {"G1": Gateway("G1", "S1"), "G2": Gateway("G2", "S2")}
        self.t1: dict[str, list[str]] = {"G1": [], "G2": []}
        self.t2: list[str] = []
        self.batches: dict[str, list[batch_pb2.Batch]] = {"G1": [], "G2": []}
        self.names: dict[bytes, tuple[str, str]] = {}
        for gateway in self.gateways.values():
            for tariff in ("chg-3", "toll-1"):
                gateway.told(tariff=Policy.tariff(tariff))
            fund(gateway, "P", "p-card")
            fund(gateway, "F", "f-card")
        one, two = self.gateways["G1"], self.gateways["G2"]
        self.c1 = Meter("c1", 812_340, token="p-card")
        self.c2 = Meter("c2", 55_000, token="p-card")
        one.told(device=Policy.device("c1", rated_per_hour=22_000, report_interval_s=720, stoppable=False))
        two.told(device=Policy.device("c2", rated_per_hour=3_700, report_interval_s=900))
        for gateway in (one, two):
            for device in ("x1", "x9"):
                gateway.told(
                    device=Policy.device(
                        device, profile="one-shot", unit="passage", rated_per_hour=3600, tariff_id="toll-1"
                    )
                )
        two.told(
            floor=directive_pb2.FloorPolicy(
                currency="EUR",
                per_token_micros=1_500_000,
                per_account_micros=1_500_000,
                all_tokens_micros=10 * M,
            )
        )

    def at(self, name: str, when: str) -> Gateway:
        gateway = self.gateways[name]
        gateway.at = clock(when)
        gateway.do(Tick())
        return gateway

    def held(self, name: str, authorization: bytes) -> dict[str, int]:
        return dict(self.gateways[name].state.authorizations[authorization].holds)

    def note(self, name: str, label: str, meter: Meter, before: dict[str, int], record: int, limit: int | None) -> None:
        state = self.gateways[name].state
        authorization = state.authorizations[meter.authorization or b""]
        columns = [
            label,
            str(authorization.value),
            str(authorization.value - authorization.start),
            eur(authorization.net_micros),
            eur(authorization.tax_micros),
            eur(authorization.gross_micros),
            eur(record),
            held_text(before),
            held_text(authorization.holds),
            "-" if limit is None else str(limit - authorization.start),
            ", ".join(
                f"{quota.id} {eur(quota.unspent_micros)}/{eur(quota.free_micros)}"
                for quota in state.accounts["P"].quotas
            ),
        ]
        self.t1[name].append("|" + "|".join(columns) + "|")

    def start(self, name: str, auth: str, when: str, meter: Meter) -> None:
        gateway = self.at(name, when)
        reply = gateway.say(meter.intent(gateway), meter.token)
        grant = gateway.grant_of(reply)
        meter.authorization = grant.authorization
        self.names[grant.authorization] = auth, meter.device_id
        self.note(name, f"{auth} {when}", meter, {}, 0, grant.limit)

    def read(self, name: str, auth: str, when: str, meter: Meter, value: int, *, end: bool = False) -> None:
        gateway = self.at(name, when)
        before = self.held(name, meter.authorization or b"")
        was = gateway.state.authorizations[meter.authorization or b""].gross_micros
        statement = meter.end(gateway, value) if end else meter.reading(gateway, value)
        reply = gateway.say(statement)
        assert reply is not None
        assert reply.status is AnswerStatus.RECORDED
        assert reply.closed is end
        limit = None if end else gateway.grant_of(reply).limit
        now = gateway.state.authorizations[meter.authorization or b""].gross_micros
        self.note(name, f"{auth} {when}" + " end" * end, meter, before, now - was, limit)

    def passage(self, name: str, auth: str, when: str, device: str, count: int, token: str) -> Refusal | None:
        gateway = self.at(name, when)
        meter = Meter(device, count, tariff="toll-1", token=token, counter=count)
        reply = gateway.say(meter.intent(gateway, one_shot=1), token)
        assert reply is not None
        if reply.refusal is None:
            assert reply.closed
            grant = gateway.grant_of(reply)
            assert (grant.limit, grant.held, grant.net_micros + grant.tax_micros) == (count + 1, (), 1_200_000)
            self.names[grant.authorization] = auth, device
        return reply.refusal

    def seal(self, name: str, when: str) -> batch_pb2.Batch:
        batch = self.at(name, when).seal()
        assert batch is not None
        self.batches[name].append(batch)
        return batch

    def quota(self, name: str, when: str, quota: str, amount: int, until: str) -> None:
        self.at(name, when).told(quota_granted=Policy.quota(self.quota_ids[quota], "P", amount, clock(until)))

    def play(self) -> None:
        one, two = self.gateways["G1"], self.gateways["G2"]
        self.quota("G1", "09:00", "q1", 4 * M, "10:30")
        self.quota("G2", "09:00", "q2", 3 * M, "13:00")
        self.start("G1", "a1", "10:00", self.c1)
        assert self.passage("G1", "t1", "10:05", "x1", 41, "p-card") is None
        self.quota("G1", "10:06", "q3", 2 * M, "11:11")
        self.read("G1", "a1", "10:12", self.c1, 816_477)
        self.seal("G1", "10:14")
        self.read("G1", "a1", "10:24", self.c1, 820_643)
        self.read("G1", "a1", "10:36", self.c1, 824_891)
        refusal = self.passage("G1", "t2", "10:37", "x1", 42, "p-card")
        assert refusal is Refusal.QUOTA_EXHAUSTED
        q3, q2 = one.state.quotas[self.quota_ids["q3"]], two.state.quotas[self.quota_ids["q2"]]
        self.t2.append(
            f"|10:37|G1|x1 of P: 1.20|**refused**: q3 unspent {eur(q3.unspent_micros)}, free {eur(q3.free_micros)}; "
            f"G2 has {eur(q2.free_micros)}, the ledger 1.00|"
        )
        self.seal("G1", "10:40")
        # The clone says the same counter to another gateway.
        assert self.passage("G2", "t3", "10:40", "x1", 41, "p-card") is None
        self.t2.append(f"|10:40|G2|clone of x1, passage 41→42|yes, q2 free {eur(q2.free_micros)}|")
        assert self.passage("G2", "t4", "10:45", "x9", 7, "f-card") is None
        room = 1_500_000 - two.state.floor.by_account["F"]
        self.t2.append(f"|10:45|G2|x9 of F (no quota)|yes on the floor, room left {eur(room)}|")
        self.start("G2", "a3", "10:50", self.c2)
        self.read("G2", "a3", "11:05", self.c2, 55_880)
        self.seal("G2", "11:06")
        self.read("G1", "a1", "11:12", self.c1, 834_820, end=True)
        self.seal("G1", "11:13")
        self.at("G2", "11:15").told(
            quota_recalled=directive_pb2.QuotaRecalled(quota_id=self.quota_ids["q2"], reason="asked")
        )
        self.read("G2", "a3", "11:18", self.c2, 56_640)
        self.seal("G2", "11:19")
        self.read("G2", "a3", "11:24", self.c2, 56_640, end=True)
        self.seal("G2", "11:25")

    def t3(self) -> list[str]:
        rows = []
        line_number = 0
        for name, batches in self.batches.items():
            for batch in batches:
                labels = [f"L{line_number + i + 1}" for i in range(len(batch.lines))]
                line_number += len(labels)
                for claim in batch.claims:
                    auth, device = self.names[claim.authorization_id]
                    said = f"{auth} {device} {claim.register_from}→{claim.register_to}: "
                    said += f"{eur(claim.net_micros)} + {eur(claim.tax_micros)}"
                    for index, share in enumerate(claim.shares):
                        line = batch.lines[share.line]
                        funding = line.quota_id or ("floor" if line.floor else "overrun")
                        minutes = line.quarter * 15 % 1440
                        on = f"{labels[share.line]}: {line.account_id} {funding} {line.tariff_id}"
                        columns = (
                            "" if index else f"{name}#{batch.sequence}",
                            "" if index else said,
                            f"{on} {minutes // 60:02d}:{minutes % 60:02d}",
                            f"{eur(share.net_micros)} + {eur(share.tax_micros)}",
                        )
                        rows.append("|" + "|".join(columns) + "|")
        return rows


def rows_under(text: str, first_column: str) -> list[str]:
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"|{first_column}|"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(line)
    return rows
