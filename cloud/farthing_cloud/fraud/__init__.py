"""Watches what the ledger publishes; can only ever reduce what is allowed."""

from farthing_cloud.fraud.servicer import FraudService as FraudService
from farthing_cloud.fraud.servicer import build as build
