"""What may be registered: parsed here once, refused with a sentence that names the field."""

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.x509.oid import NameOID

from farthing.evidence.classes import least_of
from farthing.evidence.keys import uris_of
from farthing.ids import IdError, key_uri, parse_id
from farthing.money import MoneyError, parse_amount_micros, parse_currency
from farthing.policy import (
    PolicyError,
    entitlement_of,
    online_check_ppm_of,
    place_policy_of,
    position_of,
    scorecard_of,
    usage_limits_of,
)
from farthing.tariff import TariffError
from farthing.tariff import parse as parse_tariff
from farthing.tariff.zones import zone
from farthing.v1 import directive_pb2, registry_pb2

#: Longest name for people.
MAX_NAME_LENGTH = 200
#: Each becomes a directive on each of its gateways; a charging plaza has some dozens of bays per device at most.
MAX_REGISTERS = 64
MAX_SITES_PER_DEVICE = 10_000
#: One OCPI object; the largest of the vectors is 4 kB.
MAX_TARIFF_SIZE = 64 * 1024
X_COORDINATE_SIZE = 32
#: RFC 9528, section 3.3.2: the ceremony's kids have eight bytes; longer ones cost air time in each handshake.
MAX_KID_SIZE = 8
MAX_UINT32 = 2**32 - 1
MAX_UINT63 = 2**63 - 1
#: A count is at most 2^63 - 1 with all its turns, and one more must fit: beyond it every reading would be parked as malformed. Room for a hundred turns, and
#: more than anything counts in its life.
MAX_MODULUS = 2**56
_UNIT = re.compile(r"[A-Za-z][A-Za-z0-9]{0,15}\Z")

T = TypeVar("T")


class Unfit(Exception):
    """Something that may not be registered; the message names the field."""


def _field(name: str, parse: Callable[[object], T], value: object) -> T:
    try:
        return parse(value)
    except (IdError, MoneyError) as err:
        raise Unfit(f"{name}: {err}") from err


def _id(name: str, value: str) -> None:
    _field(name, parse_id, value)


def _amount(name: str, value: int) -> None:
    _field(name, parse_amount_micros, value)


def check_operator(operator: registry_pb2.Operator) -> None:
    """Raise ``Unfit`` unless ids, name and currency are usable."""
    _id("operator_id", operator.operator_id)
    if not 1 <= len(operator.name) <= MAX_NAME_LENGTH:
        raise Unfit(f"name: 1 to {MAX_NAME_LENGTH} characters")
    try:
        parse_currency(operator.currency)
    except MoneyError as err:
        raise Unfit(f"currency: {err}") from err
    _amount("floor_per_account_micros", operator.floor_per_account_micros)


def check_site(site: registry_pb2.Site, *, currency: str | None) -> None:
    """Raise ``Unfit`` unless the site's zone, floor and seal are usable; ``currency`` is the operator's, None: not known."""
    _id("site_id", site.site_id)
    _id("operator_id", site.operator_id)
    try:
        zone(site.time_zone)
    except TariffError as err:
        raise Unfit(f"time_zone: {site.time_zone!r} is no IANA time zone such as Europe/Berlin") from err
    for name in ("per_token_micros", "per_account_micros", "all_tokens_micros"):
        _amount(f"floor.{name}", getattr(site.floor, name))
    if currency is not None and site.floor.currency not in ("", currency):
        raise Unfit(f"floor.currency: the operator's is {currency}, not {site.floor.currency}")
    _amount("seal.amount_micros", site.seal.amount_micros)
    # Every one of the three is a threshold; one at 0 would seal without end or never.
    for name in ("amount_micros", "records", "age_s"):
        if getattr(site.seal, name) < 1:
            raise Unfit(f"seal.{name}: at least 1")
    _check_policies(site)
    try:
        least_of(site.least_evidence_class)
    except ValueError as err:
        raise Unfit(f"least_evidence_class: {err}") from err


def _check_policies(site: registry_pb2.Site) -> None:
    """Gateways read them with the same functions, so what is taken here is obeyed there."""
    where = ""
    try:
        where = "usage_limits"
        usage_limits_of(site.usage_limits)
        where = "place"
        place_policy_of(site.place)
        where = "scorecard"
        scorecard_of(site.scorecard)
        where = "online_check"
        online_check_ppm_of(site.online_check)
    except PolicyError as err:
        raise Unfit(f"{where}: {err}") from err


def check_floor_shares(operator: registry_pb2.Operator, shares: Iterable[tuple[int, int]]) -> None:
    """Raise ``Unfit`` if floors give one account more than the operator allows: ``shares`` are (gateways, micros at each).

    A share is a gateway's own: whatever happens to the others, all of them together give no more.
    """
    most = operator.floor_per_account_micros
    given = sum(gateways * micros for gateways, micros in shares)
    if most and given > most:
        raise Unfit(
            f"floor.per_account_micros: over all gateways one account would have {given}, the operator allows {most}"
        )


def check_floor_fits(site: registry_pb2.Site, gateway: registry_pb2.Gateway) -> None:
    """Raise ``Unfit`` if the site's floor alone is more than what a gateway may have open (DESIGN 5.9)."""
    floor, most = site.floor.all_tokens_micros, gateway.exposure_micros
    if floor > most:
        raise Unfit(
            f"floor.all_tokens_micros: {floor} at site {site.site_id}, but gateway {gateway.gateway_id} has an exposure_micros of {most}"
        )


def check_gateway(gateway: registry_pb2.Gateway, *, root: x509.Certificate) -> None:
    """Raise ``Unfit`` unless ids, exposure and the three public keys are usable, and a certificate given is that of the batch key."""
    _id("gateway_id", gateway.gateway_id)
    _id("operator_id", gateway.operator_id)
    _id("site_id", gateway.site_id)
    _amount("exposure_micros", gateway.exposure_micros)
    _p256("batch_key", gateway.batch_key)
    _p256("grant_key", gateway.grant_key)
    if gateway.batch_key == gateway.grant_key:
        raise Unfit("grant_key: is the batch_key; one key, one purpose")
    try:
        point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), gateway.unwrap_key)
    except ValueError as err:
        raise Unfit("unwrap_key: not a point of P-256") from err
    if point.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint) != gateway.unwrap_key:
        raise Unfit("unwrap_key: write the point uncompressed, 65 bytes")
    if gateway.batch_certificate:
        certificate, spki = _issued_by(root, "batch_certificate", gateway.batch_certificate)
        try:
            uris = uris_of(certificate)
        except ValueError as err:
            raise Unfit("batch_certificate: not an X.509 certificate in DER") from err
        if uris != [key_uri("batch", gateway.gateway_id)]:
            raise Unfit(f"batch_certificate: it does not name the batch key of {gateway.gateway_id}")
        if spki != gateway.batch_key:
            raise Unfit("batch_certificate: it binds another key than batch_key")


def check_tariff(tariff: registry_pb2.Tariff, *, currency: str | None) -> None:
    """Raise ``Unfit`` unless the tariff can be priced exactly, in the operator's currency."""
    record = tariff.tariff
    _id("operator_id", tariff.operator_id)
    _id("tariff_id", record.tariff_id)
    if record.version < 1:
        raise Unfit("version: counts from 1")
    if len(record.ocpi_json) > MAX_TARIFF_SIZE:
        raise Unfit(f"ocpi_json: at most {MAX_TARIFF_SIZE} bytes")
    try:
        parsed = parse_tariff(record.ocpi_json)
    except TariffError as err:
        raise Unfit(f"ocpi_json: {err}") from err
    if parsed.id != record.tariff_id:
        raise Unfit(f"ocpi_json: its id is {parsed.id}, not {record.tariff_id}")
    if record.currency != parsed.currency:
        raise Unfit(f"currency: the tariff is in {parsed.currency}, not {record.currency or 'none'}")
    if currency is not None and record.currency != currency:
        raise Unfit(f"currency: the operator's is {currency}, not {record.currency}")


def check_fit(record: directive_pb2.DeviceRecord, tariff: registry_pb2.Tariff) -> None:
    """Raise ``Unfit`` if the tariff has no price for what one of the device's registers counts."""
    parsed = parse_tariff(tariff.tariff.ocpi_json)
    for register in record.registers:
        if not parsed.fits(register.unit):
            raise Unfit(
                f"tariff_id: {parsed.id} has no price for register {register.register_id}'s {register.unit}:"
                f" {parsed.why_not(register.unit)}"
            )
        if record.profile == directive_pb2.DEVICE_PROFILE_ONE_SHOT and not parsed.fits_at_once(register.unit):
            raise Unfit(
                f"tariff_id: {parsed.id} prices by time alone, and a use of profile one-shot takes none: it would cost nothing"
            )


def check_entitlement(entitlement: registry_pb2.Entitlement) -> None:
    """Raise ``Unfit`` for what a gateway could not obey, or a site that is named twice."""
    _id("operator_id", entitlement.operator_id)
    if len(entitlement.site_ids) > MAX_SITES_PER_DEVICE:
        raise Unfit(f"site_ids: at most {MAX_SITES_PER_DEVICE} sites; none for all of the operator's")
    for site_id in entitlement.site_ids:
        _id("site_ids", site_id)
    if len(set(entitlement.site_ids)) != len(entitlement.site_ids):
        raise Unfit("site_ids: a site is named twice")
    try:
        entitlement_of(entitlement.record)
    except PolicyError as err:
        raise Unfit(f"record: {err}") from err


def check_device(device: registry_pb2.Device, *, root: x509.Certificate, now: datetime | None = None) -> None:
    """Raise ``Unfit`` unless the record is usable and the certificate binds its statement key to its id.

    ``now`` is real time, aware (default: the wall clock): certificates know no other.
    """
    record = device.record
    _id("operator_id", device.operator_id)
    _id("device_id", record.device_id)
    if not 1 <= len(device.site_ids) <= MAX_SITES_PER_DEVICE:
        raise Unfit(f"site_ids: 1 to {MAX_SITES_PER_DEVICE} sites")
    for site_id in device.site_ids:
        _id("site_ids", site_id)
    if len(set(device.site_ids)) != len(device.site_ids):
        raise Unfit("site_ids: a site is named twice")
    if record.profile not in (
        directive_pb2.DEVICE_PROFILE_SESSION,
        directive_pb2.DEVICE_PROFILE_ONE_SHOT,
        directive_pb2.DEVICE_PROFILE_STANDING,
    ):
        raise Unfit("profile: session, one-shot or standing")
    standing = record.profile == directive_pb2.DEVICE_PROFILE_STANDING
    if standing != bool(record.standing_account_id):
        raise Unfit("standing_account_id: exactly the devices of profile standing have one")
    if standing:
        _id("standing_account_id", record.standing_account_id)
    _id("tariff_id", record.tariff_id)
    if record.tariff_version < 1:
        raise Unfit("tariff_version: counts from 1")
    if record.report_interval_s < 1:
        raise Unfit("report_interval_s: at least 1")
    if record.HasField("position"):
        try:
            position_of(record.position)
        except PolicyError as err:
            raise Unfit(f"position: {err}") from err
    _check_registers(record)
    _p256("statement_key", record.statement_key)
    if bool(record.static_dh_x) != bool(record.static_dh_kid):
        raise Unfit("static_dh_x: goes with static_dh_kid")
    if record.static_dh_x:
        if len(record.static_dh_x) != X_COORDINATE_SIZE:
            raise Unfit(f"static_dh_x: {X_COORDINATE_SIZE} bytes")
        try:
            ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x02" + record.static_dh_x)
        except ValueError as err:
            raise Unfit("static_dh_x: on no point of P-256") from err
        if len(record.static_dh_kid) > MAX_KID_SIZE:
            raise Unfit(f"static_dh_kid: 1 to {MAX_KID_SIZE} bytes")
    _check_certificate(device, root, now or datetime.now(UTC))


def _check_registers(record: directive_pb2.DeviceRecord) -> None:
    if not 1 <= len(record.registers) <= MAX_REGISTERS:
        raise Unfit(f"registers: 1 to {MAX_REGISTERS}")
    if len({register.register_id for register in record.registers}) != len(record.registers):
        raise Unfit("registers: one is named twice")
    for register in record.registers:
        _id("registers.register_id", register.register_id)
        if not _UNIT.match(register.unit):
            raise Unfit('registers.unit: a short word such as "Wh", "s", "passage"')
        if not 2 <= register.modulus <= MAX_MODULUS:
            raise Unfit("registers.modulus: 2 to 2^56")
        if not 1 <= register.rated_per_hour <= MAX_UINT63:
            raise Unfit("registers.rated_per_hour: 1 to 2^63 - 1")


def _p256(name: str, spki: bytes) -> None:
    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as err:
        raise Unfit(f"{name}: not a SubjectPublicKeyInfo in DER") from err
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Unfit(f"{name}: keys are on P-256")


def _issued_by(root: x509.Certificate, name: str, der: bytes) -> tuple[x509.Certificate, bytes]:
    """The certificate and its key (SubjectPublicKeyInfo), if the root itself issued it."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm) as err:
        raise Unfit(f"{name}: not an X.509 certificate in DER") from err
    try:
        certificate.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature) as err:
        raise Unfit(f"{name}: the factory's CA did not issue it") from err
    return certificate, spki


def _check_certificate(device: registry_pb2.Device, root: x509.Certificate, now: datetime) -> None:
    certificate, spki = _issued_by(root, "certificate", device.certificate)
    names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [device.record.device_id]:
        raise Unfit(f"certificate: it names {', '.join(names) or 'nobody'}, not {device.record.device_id}")
    if spki != device.record.statement_key:
        raise Unfit("certificate: it binds another key than statement_key")
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise Unfit("certificate: not valid today")
