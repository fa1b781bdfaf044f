"""Windows, splits and payouts: plan, then execute."""

from farthing_cloud.settlement.rpc import SettlementService as SettlementService
from farthing_cloud.settlement.rpc import build as build
