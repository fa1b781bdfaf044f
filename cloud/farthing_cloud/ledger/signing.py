"""Signatures of the cloud: receipts after the commit, directives after the transaction that wrote their bytes."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import structlog

from farthing.clock import Instant
from farthing.device.cose import Kind, key_id, to_be_signed
from farthing.hsm import HsmError
from farthing.v1 import batch_pb2, directive_pb2
from farthing_cloud.ledger.bell import Bell
from farthing_cloud.ledger.metrics import DIRECTIVES_SIGNED
from farthing_cloud.ledger.store.interface import LedgerStore, ReceiptContent, Signed, StoreError

#: Labels of the cloud's keys in its token.
RECEIPT_KEY: Final = "receipt"
DIRECTIVE_KEY: Final = "directive"
#: Signed in one go, and kept in one transaction.
DIRECTIVES_AT_ONCE: Final = 256
#: Another process may have written directives: looked for this often, real milliseconds.
LOOK_AGAIN_MS: Final = 500
#: After a fault of token or database, real seconds.
PAUSE_S: Final = 1.0

_log = structlog.stdlib.get_logger(__name__)


class Signer(Protocol):
    """A token, as far as it is needed here."""

    async def sign(self, label: str, data: bytes, *, urgent: bool = False) -> bytes:
        """ES256 over ``data`` with the key ``label``: 64 bytes r ‖ s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKeys:
    """SubjectPublicKeyInfo (DER) of the two keys."""

    receipt: bytes
    directive: bytes


class Signatures:
    """Signs what the ledger says."""

    def __init__(self, *, signer: Signer, keys: PublicKeys, store: LedgerStore) -> None:
        self.keys = keys
        self._signer = signer
        self._store = store
        self._receipt_key_id = key_id(keys.receipt)
        self._directive_key_id = key_id(keys.directive)
        #: Rings when there are directives to sign.
        self.wanted = Bell()
        #: Rings when directives were signed.
        self.signed = Bell()

    async def receipt(self, content: ReceiptContent) -> batch_pb2.SignedReceipt:
        """The receipt of a posted batch: signed once, kept, and the same for ever."""
        kept = await self._store.kept_receipt(content.batch_hash)
        if kept is not None:
            return _receipt(kept)
        (receipt,) = await self.first_receipts((content,))
        return receipt

    async def first_receipts(self, contents: Sequence[ReceiptContent]) -> Sequence[batch_pb2.SignedReceipt]:
        """Sign and keep the receipts of batches that were posted just now."""
        signed = []
        for content in contents:
            body = content.encode()
            signature = await self._sign(RECEIPT_KEY, "receipt", content.gateway_id, body)
            signed.append((content.batch_hash, Signed(body=body, signature=signature, key_id=self._receipt_key_id)))
        return [_receipt(kept) for kept in await self._store.keep_receipts(signed)]

    async def head(
        self, gateway_id: str, *, version: int, body_hash: bytes, at: Instant
    ) -> directive_pb2.SignedDirectiveHead:
        """Where a chain ended at an instant."""
        head = directive_pb2.DirectiveHead(
            gateway_id=gateway_id, version=version, hash=body_hash, at_us=at
        ).SerializeToString(deterministic=True)
        signature = await self._sign(DIRECTIVE_KEY, "directive-head", gateway_id, head)
        return directive_pb2.SignedDirectiveHead(head=head, signature=signature, key_id=self._directive_key_id)

    async def _sign(self, label: str, kind: Kind, recipient: str, body: bytes) -> bytes:
        return await self._signer.sign(label, to_be_signed(kind, recipient, body), urgent=label == RECEIPT_KEY)

    async def run(self) -> None:
        """Sign directives as they come, until cancelled. A token or database that is away is waited for."""
        while True:
            seen = self.wanted.rung
            try:
                if await self.sign_directives() == DIRECTIVES_AT_ONCE:
                    continue
            except (HsmError, StoreError) as err:
                _log.warning("directives wait for their signatures", cause=str(err))
                await asyncio.sleep(PAUSE_S)
                continue
            await self.wanted.wait(seen, milliseconds=LOOK_AGAIN_MS)

    async def sign_directives(self) -> int:
        """Sign what is there to sign, at most ``DIRECTIVES_AT_ONCE``; how many."""
        rows = await self._store.unsigned(DIRECTIVES_AT_ONCE)
        if not rows:
            return 0
        signed = [
            replace(
                row,
                signature=await self._sign(DIRECTIVE_KEY, "directive", row.gateway_id, row.body),
                key_id=self._directive_key_id,
            )
            for row in rows
        ]
        await self._store.keep_signatures(signed)
        DIRECTIVES_SIGNED.inc(len(signed))
        self.signed.ring()
        return len(signed)


def _receipt(signed: Signed) -> batch_pb2.SignedReceipt:
    return batch_pb2.SignedReceipt(receipt=signed.body, signature=signed.signature, key_id=signed.key_id)
