"""The clerk's line to the back office while the run goes on: a look at the books several times a second would be too much for
a command that starts anew each time."""

from pathlib import Path

import grpc

from farthing.hsm import Hsm, load_party
from farthing.hsm.tls import channel_credentials
from farthing.v1 import ledger_pb2, ledger_pb2_grpc

#: A look that takes longer than this is skipped: the view shows the last one.
LOOK_WITHIN_S = 5.0


class Books:
    """Reads the ledger's sums of one operator."""

    def __init__(self, *, party_folder: Path, ca_file: Path, address: str, operator: str) -> None:
        self._party = load_party(party_folder)
        self._ca_file = ca_file
        self._address = address
        self._operator = operator
        self._hsm = Hsm.of(self._party)
        self._channel: grpc.aio.Channel | None = None

    def open(self) -> None:
        """Log in to the clerk's token and prepare the channel."""
        self._hsm.start()
        token = self._hsm.attach(self._party)
        credentials = channel_credentials(
            token, "tls", certificate_chain=self._party.certificate("tls"), roots=self._ca_file.read_bytes()
        )
        self._channel = grpc.aio.secure_channel(self._address, credentials)

    @property
    def channel(self) -> grpc.aio.Channel:
        """The open channel."""
        assert self._channel is not None
        return self._channel

    async def close(self) -> None:
        """Close the channel, then the token."""
        if self._channel is not None:
            await self._channel.close(None)
        self._hsm.close()

    async def sums(self) -> ledger_pb2.ReconcileResponse | None:
        """The ledger's sums, or None when it did not answer in time."""
        assert self._channel is not None
        stub = ledger_pb2_grpc.LedgerStub(self._channel)
        try:
            return await stub.Reconcile(ledger_pb2.ReconcileRequest(operator_id=self._operator), timeout=LOOK_WITHIN_S)
        except grpc.aio.AioRpcError:
            return None
