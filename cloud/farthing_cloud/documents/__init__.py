"""Payers' documents: receipts, statements, invoices and credit notes, made of what the ledger posted."""

from farthing_cloud.documents.servicer import DocumentsService as DocumentsService
from farthing_cloud.documents.servicer import build as build
