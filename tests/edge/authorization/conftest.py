"""The gateways that the tests of the devices' word begin with."""

import pytest
from edge_playbook import Gateway, M, Policy, clock, fund

from farthing_edge.authorization import commands


@pytest.fixture
def site() -> Gateway:
    gateway = Gateway("G1", "S1", at=clock("10:00"))
    for tariff in ("chg-3", "toll-1", "park-1"):
        gateway.told(tariff=Policy.tariff(tariff))
    fund(gateway, "P", "card")
    gateway.told(device=Policy.device("c1"))
    gateway.told(device=Policy.device("c2"))
    gateway.told(device=Policy.device("m1", profile="standing", standing_account_id="P", rated_per_hour=1_000))
    gateway.told(quota_granted=Policy.quota("q1", "P", 50 * M, clock("20:00")))
    gateway.do(commands.HeadArrived(version=gateway.state.directive_version, at=gateway.at))
    return gateway
