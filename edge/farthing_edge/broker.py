"""The site's broker: what Mosquitto is told, and the certificates of who may speak to it.

Rule 1: nobody in without a client certificate of *this* site's CA. The CA's certificate from the ceremony leads to a root
that other sites share, so the broker trusts a second one instead: the same key and name, signed by itself (``site_anchor``).
Rule 2: who a client is follows from its certificate's common name: user name, client id, and topics by pattern. So nobody can
take over the gateway's session, and no rule has to be written per device.
Rule 3: a gateway on the same host may come through a Unix socket instead, in a folder that only its user may enter. Then nobody is the
gateway by certificate.
Rule 4: its process is not the gateway's child: it is configured here and started by the host.
"""

import getpass
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from farthing.configuration import split_address
from farthing.device.messages import MAX_ENVELOPE_SIZE
from farthing.hsm import Party, Token
from farthing.hsm.certificate import CertificateRequest, sign_certificate
from farthing.hsm.transport import TransportKey, make_transport_key
from farthing.ids import parse_id
from farthing_edge.config import GATEWAY_USER

MOSQUITTO = "mosquitto"
SITE_CA = "site-ca"
BROKER_NAME = "broker"
CONFIGURATION_FILE = "mosquitto.conf"
PID_FILE = "mosquitto.pid"

#: QoS 1 messages waiting for one client that is away or slow: a gateway that restarts finds two minutes of a busy site. What
#: is beyond is not acknowledged as paid: the device asks again until it is answered.
MAX_QUEUED_MESSAGES = 20_000
MAX_QUEUED_BYTES = 16 * 1024 * 1024
#: Unacknowledged messages on one connection: hides the round trip of a group commit at 500 statements a second.
MAX_INFLIGHT_MESSAGES = 1_000
#: Sessions of clients that are not heard of: a device that is away for longer asks again itself.
SESSION_EXPIRY = "14d"
#: Devices of one site, the gateway, and a person who looks.
MAX_CONNECTIONS = 4_096
#: The gateway, and the one that takes over from it.
MAX_SOCKET_CONNECTIONS = 8
MEMORY_LIMIT_BYTES = 128 * 1024 * 1024
#: Topic and header around the largest envelope or answer.
MAX_PACKET_SIZE = MAX_ENVELOPE_SIZE + 512


class BrokerError(Exception):
    """The broker cannot be set up as asked; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerFiles:
    """Where everything was written; ``command`` starts the broker in the foreground."""

    configuration: Path
    acl: Path
    anchor: Path
    transport_key: TransportKey

    @property
    def command(self) -> tuple[str, ...]:
        """How the host starts it."""
        return (find_mosquitto() or MOSQUITTO, "-c", str(self.configuration))


def find_mosquitto() -> str | None:
    """Where Mosquitto is installed, or None."""
    # Debian puts it where an ordinary user's PATH does not lead.
    return shutil.which(MOSQUITTO, path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin")


def site_anchor(token: Token, party: Party) -> bytes:
    """The site's CA as an anchor of its own, PEM: key and name of its certificate, signed by itself; blocking."""
    issued = x509.load_pem_x509_certificate(party.certificate(SITE_CA))
    (name,) = issued.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    request = CertificateRequest(
        common_name=str(name.value),
        public_key=party.public_key(SITE_CA),
        not_before=issued.not_valid_before_utc,
        not_after=issued.not_valid_after_utc,
        path_length=0,
    )
    return sign_certificate(token, SITE_CA, request, issuer_certificate=None)


def client_key(token: Token, party: Party, common_name: str, *, directory: Path | None) -> TransportKey:
    """A client's key for this site's broker, as ``common_name``; blocking, one day."""
    return make_transport_key(
        token,
        SITE_CA,
        issuer_certificate=party.certificate(SITE_CA),
        roots=site_anchor(token, party),
        directory=directory,
        common_name=common_name,
        server=False,
        client=True,
    )


def device_key(token: Token, party: Party, device: str, *, directory: Path) -> TransportKey:
    """A device's key for this site's broker; raise ``BrokerError`` for a name that would be somebody else's."""
    parse_id(device)
    if device in (GATEWAY_USER, BROKER_NAME):
        raise BrokerError(f"{device!r} is the broker's own name for something else: no device may be called so")
    return client_key(token, party, device, directory=directory)


def check_private(socket: Path) -> None:
    """Raise ``BrokerError`` unless only its owner can reach ``socket``, who is us: whoever opens it is the gateway."""
    try:
        found = socket.parent.stat()
    except OSError as err:
        raise BrokerError(f"mqtt.socket: there is no folder {socket.parent}: `farthing-edge broker` makes it") from err
    if found.st_mode & 0o077 or found.st_uid != os.geteuid():
        raise BrokerError(
            f"mqtt.socket: others may enter {socket.parent}, and whoever opens the socket is the gateway: "
            "put it into a folder of its own with mode 0700, of the user that gateway and broker run as"
        )


def write_broker(
    token: Token, party: Party, *, listen: str, directory: Path, socket: Path | None = None
) -> BrokerFiles:
    """Write ``mosquitto.conf``, ``acl`` and the broker's transport key into ``directory``; blocking.

    With ``socket``, the gateway comes through that Unix socket, and no certificate is the gateway's. Written again, it renews the key: a running broker takes it at SIGHUP.
    """
    host, port = split_address(listen)
    if port == 0:
        raise BrokerError("--listen needs a port: devices and gateway must find the broker again")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    anchor = directory / "site-anchor.pem"
    key = make_transport_key(
        token,
        SITE_CA,
        issuer_certificate=party.certificate(SITE_CA),
        roots=site_anchor(token, party),
        directory=directory,
        common_name=BROKER_NAME,
        dns_names=("localhost", *(() if _is_ip(host) else (host,))),
        addresses=("127.0.0.1", *((host,) if _is_ip(host) and host != "127.0.0.1" else ())),
        server=True,
        client=False,
    )
    anchor.write_bytes(key.ca_file.read_bytes())
    acl = directory / "acl"
    acl.write_text(_DEVICES if socket is not None else _GATEWAY + _DEVICES, encoding="utf-8")
    if socket is not None:
        socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_private(socket)
        (directory / "acl-socket").write_text(_SOCKET, encoding="utf-8")
    data = directory / "data"
    data.mkdir(mode=0o700, exist_ok=True)
    configuration = directory / CONFIGURATION_FILE
    configuration.write_text(
        _configuration(host=host, port=port, key=key, anchor=anchor, acl=acl, data=data, socket=socket),
        encoding="utf-8",
    )
    return BrokerFiles(configuration=configuration, acl=acl, anchor=anchor, transport_key=key)


def _is_ip(host: str) -> bool:
    return host.replace(".", "").isdigit() or ":" in host


_GATEWAY = f"""\
# Written by `farthing-edge broker`.
user {GATEWAY_USER}
topic read farthing/+/up
topic read farthing/+/tick
topic write farthing/+/down

"""

_DEVICES = """\
# Written by `farthing-edge broker`. %u is the common name of the client's certificate.
pattern write farthing/%u/up
pattern write farthing/%u/tick
pattern read farthing/%u/down
"""

_SOCKET = """\
# Written by `farthing-edge broker`. Who comes here has no name: the folder's permissions say that it is the gateway.
topic read farthing/+/up
topic read farthing/+/tick
topic write farthing/+/down
"""


def _configuration(
    *, host: str, port: int, key: TransportKey, anchor: Path, acl: Path, data: Path, socket: Path | None
) -> str:
    way_in = "" if socket is None else _socket_listener(socket, acl.with_name("acl-socket"))
    user = ""
    if os.geteuid() == 0:
        # As root, Mosquitto becomes "mosquitto" before it opens the key, which only its owner may read.
        user = f"\n# The key is readable by its owner only, and read after privileges are dropped.\nuser {getpass.getuser()}\n"
    return f"""\
# Written by `farthing-edge broker`.
per_listener_settings true
{user}
persistence true
persistence_location {data}/
pid_file {data.with_name(PID_FILE)}
autosave_interval 60
persistent_client_expiration {SESSION_EXPIRY}
max_queued_messages {MAX_QUEUED_MESSAGES}
max_queued_bytes {MAX_QUEUED_BYTES}
max_inflight_messages {MAX_INFLIGHT_MESSAGES}
max_packet_size {MAX_PACKET_SIZE}
memory_limit {MEMORY_LIMIT_BYTES}
set_tcp_nodelay true
sys_interval 0
retain_available false
log_dest stderr
log_type error
log_type warning
log_type notice

listener {port} {host}
protocol mqtt
max_connections {MAX_CONNECTIONS}
tls_version tlsv1.3
certfile {key.certificate_file}
keyfile {key.key_file}
cafile {anchor}
require_certificate true
use_identity_as_username true
# Who claims another's client id would evict it and could delete its queue.
use_username_as_clientid true
allow_anonymous false
acl_file {acl}
{way_in}"""


def _socket_listener(socket: Path, acl: Path) -> str:
    return f"""
# The gateway of this host: no TLS, no key. Nobody else may enter the socket's folder.
listener 0 {socket}
protocol mqtt
max_connections {MAX_SOCKET_CONNECTIONS}
allow_anonymous true
acl_file {acl}
"""
