"""What a batch brought that its gateway could not take, in words that people can decide by.

Rule 1: nothing is believed here: what a statement says is read from its bytes, and its bytes go with it.
Rule 2: what cannot be read is listed too, by its batch and its bytes.
"""

from farthing.device.cose import decode_sign1
from farthing.device.messages import Intent, Statement, decode_statement
from farthing.device.reject import MessageError
from farthing.evidence.carried import authorization_of
from farthing.v1 import batch_pb2, ledger_pb2
from farthing_cloud.ledger.store.interface import BatchWithParked


def parked_in(batch: BatchWithParked) -> list[ledger_pb2.ParkedSummary]:
    """Its parked statements, in the order of the batch."""
    return [_summary(batch, each) for each in batch_pb2.Batch.FromString(batch.batch).parked]


def _summary(batch: BatchWithParked, brought: batch_pb2.ParkedStatement) -> ledger_pb2.ParkedSummary:
    summary = ledger_pb2.ParkedSummary(
        gateway_id=batch.gateway_id,
        incarnation=batch.incarnation,
        sequence=batch.sequence,
        posted_at_us=batch.posted_at,
        refusal=brought.refusal,
        statement=brought.statement,
        journal_is_present=batch.incarnation == batch.present_incarnation,
    )
    try:
        said = decode_statement(decode_sign1(brought.statement).payload)
    except MessageError:
        return summary
    summary.kind = said.kind
    summary.device_id = said.device
    summary.device_epoch = said.device_epoch
    summary.counter = said.counter
    summary.at_us = said.at
    summary.register_id = said.register.register_id
    summary.register_epoch = said.register.register_epoch
    summary.register_value = said.register.value
    summary.authorization_id = _authorization(batch, said, brought.statement)
    return summary


def _authorization(batch: BatchWithParked, said: Statement, statement: bytes) -> bytes:
    if not isinstance(said, Intent) and said.authorization is not None:
        return said.authorization
    return authorization_of(batch.gateway_id, [statement]) or b""
