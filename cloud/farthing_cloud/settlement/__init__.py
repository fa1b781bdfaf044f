"""Windows, splits and payouts: plan, then execute."""

from farthing_cloud.settlement.servicer import SettlementService as SettlementService
from farthing_cloud.settlement.servicer import build as build
