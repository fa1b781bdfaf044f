"""Watches what the ledger publishes; can only ever reduce what is allowed."""

from farthing_cloud.fraud.service import FraudService as FraudService
from farthing_cloud.fraud.service import build as build
