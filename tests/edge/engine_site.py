"""A site told to an engine, and what meters say to it: for tests of the engine on a real journal."""

from edge_playbook import M, Policy, clock, token_ref

from farthing.device.messages import encode
from farthing.v1 import directive_pb2
from farthing_edge.authorization.commands import DeviceStatement, HeadArrived
from farthing_edge.engine import Engine


class Site:
    """The directives of one site, told to an engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.policy = Policy("G1")

    async def told(self, **body: object) -> None:
        await self.engine.submit(self.policy.directive(clock("09:00"), **body))

    async def open(self, *, quota: int = 0, seal_age_s: int = 3_600) -> None:
        await self.told(
            welcome=directive_pb2.Welcome(
                operator_id="op", site_id="S1", incarnation=1, receipt_keys=[b"k"], time_zone="Europe/Berlin"
            )
        )
        await self.told(seal=directive_pb2.SealPolicy(amount_micros=100 * M, records=100, age_s=seal_age_s))
        for tariff in ("chg-3", "toll-1"):
            await self.told(tariff=Policy.tariff(tariff))
        await self.told(account=Policy.account("P"))
        await self.told(token=Policy.token("card", "P"))
        await self.told(device=Policy.device("c1"))
        await self.told(
            device=Policy.device("x1", profile="one-shot", unit="passage", rated_per_hour=3600, tariff_id="toll-1")
        )
        if quota:
            await self.told(quota_granted=Policy.quota("q1", "P", quota, clock("20:00")))
        await self.engine.submit(HeadArrived(version=self.policy.version, at=clock("09:00")))


class Here:
    """Where a meter says things: enough of a gateway to address statements to."""

    gateway_id = "G1"
    at = clock("10:00")


def said(statement, token=None) -> DeviceStatement:
    payload = encode(statement)
    return DeviceStatement(
        statement=statement,
        cose=b"\x84" + payload,
        payload=payload,
        token_ref=None if token is None else token_ref(token),
        key_epoch=None if token is None else 1,
    )
