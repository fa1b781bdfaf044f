"""Windows, splits and payouts: plan, then execute."""

from farthing_cloud.settlement.service import SettlementService as SettlementService
from farthing_cloud.settlement.service import build as build
