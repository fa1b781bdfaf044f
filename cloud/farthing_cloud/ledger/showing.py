"""What gateways show of what the cloud told them: checked against our own keys before anything in it is believed."""

from collections.abc import AsyncIterator, Sequence
from typing import Final

import grpc
from google.protobuf.message import DecodeError

from farthing.device.cose import VerifyingKey
from farthing.evidence.batches import batch_hash
from farthing.ids import GatewayId
from farthing.v1 import batch_pb2, directive_pb2, gateway_sync_pb2
from farthing_cloud.ledger.core.restoring import Link, Proof, Shown
from farthing_cloud.ledger.refusals import Refused, malformed
from farthing_cloud.ledger.signing import PublicKeys

#: Directives that one gateway hands back: a hundred thousand tokens were put since the backup, or the backup is too old.
MAX_SHOWN: Final = 100_000
#: Bytes of them, held until the last has come.
MAX_SHOWN_SIZE: Final = 256 * 1024 * 1024
#: Links to find the fork with: their distances double, so this is more than any chain needs.
MAX_LINKS: Final = 128


class Witnesses:
    """Reads what the cloud signed, whoever shows it."""

    def __init__(self, keys: PublicKeys) -> None:
        self._directive = VerifyingKey.from_spki(keys.directive)
        self._receipt = VerifyingKey.from_spki(keys.receipt)

    def proof(self, gateway_id: GatewayId, hello: gateway_sync_pb2.HelloRequest) -> Proof:
        """What a hello shows. A signature that does not hold is refused; one of a key that is no longer ours proves nothing."""
        directive, raw = directive_pb2.Directive(), b""
        if hello.last_directive.key_id == self._directive.key_id:
            raw = hello.last_directive.directive
            directive = self._of(gateway_id, hello.last_directive)
        receipt = self._receipt_in(gateway_id, hello.last_receipt)
        return Proof(
            version=directive.version,
            directive_hash=batch_hash(raw) if raw else b"",
            directive_epoch=max(1, directive.ledger_epoch),
            incarnation=receipt.incarnation,
            sequence=receipt.sequence,
            batch_hash=receipt.batch_hash,
            receipt_epoch=max(1, receipt.ledger_epoch),
        )

    def receipted(self, gateway_id: GatewayId, request: gateway_sync_pb2.ShowDirectivesRequest) -> tuple[int, int]:
        """Incarnation and sequence of the last receipt that a showing gateway has; zeros for none."""
        receipt = self._receipt_in(gateway_id, request.last_receipt)
        return receipt.incarnation, receipt.sequence

    def _receipt_in(self, gateway_id: GatewayId, signed: batch_pb2.SignedReceipt) -> batch_pb2.Receipt:
        receipt = batch_pb2.Receipt()
        if signed.key_id != self._receipt.key_id:
            return receipt
        if not self._receipt.verify("receipt", gateway_id, signed.receipt, signed.signature):
            raise malformed("the signature of the receipt does not hold")
        try:
            receipt.ParseFromString(signed.receipt)
        except DecodeError as err:
            raise malformed("the receipt does not decode") from err
        if receipt.gateway_id != gateway_id:
            raise malformed("the receipt is another gateway's")
        return receipt

    def _of(self, gateway_id: GatewayId, signed: directive_pb2.SignedDirective) -> directive_pb2.Directive:
        if signed.key_id != self._directive.key_id or not self._directive.verify(
            "directive", gateway_id, signed.directive, signed.signature
        ):
            raise malformed("the signature of a directive does not hold")
        directive = directive_pb2.Directive()
        try:
            directive.ParseFromString(signed.directive)
        except DecodeError as err:
            raise malformed("a directive does not decode") from err
        if directive.gateway_id != gateway_id:
            raise malformed("a directive is another gateway's")
        return directive

    async def shown(
        self, gateway_id: GatewayId, requests: AsyncIterator[gateway_sync_pb2.ShowDirectivesRequest]
    ) -> Sequence[Shown]:
        """Everything up to the last message; signatures hold, the order is the caller's to check."""
        shown: list[Shown] = []
        size = 0
        async for request in requests:
            for signed in request.directives:
                size += len(signed.directive)
                if len(shown) == MAX_SHOWN or size > MAX_SHOWN_SIZE:
                    raise Refused(
                        grpc.StatusCode.RESOURCE_EXHAUSTED,
                        f"more than {MAX_SHOWN} directives to take back: restore a newer backup",
                    )
                directive = self._of(gateway_id, signed)
                shown.append(Shown(directive, signed.directive, signed.signature, signed.key_id))
            if request.last:
                return shown
        raise malformed("the last message of a showing says so")


def links_of(request: gateway_sync_pb2.ShowDirectivesRequest) -> list[Link]:
    """The links that a gateway offers, the newest first."""
    if not 0 < len(request.links) <= MAX_LINKS:
        raise malformed(f"a showing begins with at most {MAX_LINKS} links")
    return sorted((Link(link.version, link.hash) for link in request.links), reverse=True)
