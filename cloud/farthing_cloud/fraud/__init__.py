"""Watches what the ledger publishes; can only ever reduce what is allowed."""

from farthing_cloud.fraud.rpc import FraudService as FraudService
from farthing_cloud.fraud.rpc import build as build
