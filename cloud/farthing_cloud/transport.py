"""Transport keys of the cloud's listeners and service clients (promise P7): certified by the ``issuing`` key in the cloud's
token, one day long, made anew in good time while we run."""

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc

from farthing.hsm import Token
from farthing.hsm.transport import TransportKey, make_transport_key

ISSUING_KEY = "issuing"
#: A key with less than this left is replaced; connections that stand are not touched.
RENEW_BEFORE = timedelta(hours=8)


class Transport:
    """One transport key and its successors. The calls block for one signature of the token."""

    def __init__(
        self,
        *,
        token: Token,
        roots: bytes,
        directory: Path | None,
        common_name: str,
        uris: Sequence[str] = (),
        dns_names: Sequence[str] = (),
        addresses: Sequence[str] = (),
        server: bool,
    ) -> None:
        """Makes nothing yet. ``roots`` is PEM; ``directory`` None: a tmpfs."""
        self._token = token
        self._roots = roots
        self._directory = directory
        self._common_name = common_name
        self._uris = tuple(uris)
        self._dns_names = tuple(dns_names)
        self._addresses = tuple(addresses)
        self._server = server
        self._key: TransportKey | None = None
        # gRPC asks for server certificates on threads of its own.
        self._lock = threading.Lock()

    @property
    def due(self) -> bool:
        """Whether there is no key yet, or a new one should be made."""
        return self._key is None or self._key.not_after - datetime.now(UTC) < RENEW_BEFORE

    def current(self) -> TransportKey:
        """The key of today, made now if there is none; raise ``HsmError`` where it cannot be made."""
        with self._lock:
            if self.due:
                if self._key is not None:
                    self._key.remove()
                self._key = make_transport_key(
                    self._token,
                    ISSUING_KEY,
                    issuer_certificate=self._token.party.certificate(ISSUING_KEY),
                    roots=self._roots,
                    directory=self._directory,
                    common_name=self._common_name,
                    uris=self._uris,
                    dns_names=self._dns_names,
                    addresses=self._addresses,
                    server=self._server,
                    client=not self._server,
                )
            assert self._key is not None
            return self._key

    def remove(self) -> None:
        """Delete the key's files."""
        with self._lock:
            if self._key is not None:
                self._key.remove()
                self._key = None

    def server_credentials(self) -> grpc.ServerCredentials:
        """mTLS for a listener: clients must show a certificate that leads to our roots; new keys are taken up by themselves."""
        first = self._configuration()

        # None says "no change"; the stubs do not know that it may be said.
        def fetch() -> Any:
            return self._configuration() if self.due else None

        return grpc.dynamic_ssl_server_credentials(first, fetch, require_client_authentication=True)

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        key = self.current()
        return grpc.ssl_server_certificate_configuration(
            [(key.key_file.read_bytes(), key.certificate_file.read_bytes())], root_certificates=self._roots
        )

    def client_credentials(self) -> grpc.ChannelCredentials:
        """mTLS for a channel, with the key of today."""
        key = self.current()
        return grpc.ssl_channel_credentials(
            root_certificates=self._roots,
            private_key=key.key_file.read_bytes(),
            certificate_chain=key.certificate_file.read_bytes(),
        )
