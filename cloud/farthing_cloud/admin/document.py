"""The declarative file of ``farthing-admin apply``: read strictly, amounts as exact decimals, paths relative to the file."""

from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from pydantic import Field, ValidationError

from farthing.configuration import ConfigError, Section, explain, read_toml
from farthing.hsm import Party, PartyError, load_party
from farthing.v1 import batch_pb2, directive_pb2, ledger_pb2, registry_pb2, settlement_pb2, vault_pb2
from farthing_cloud.admin.exact import InstantUs, Micros, SharePpm
from farthing_cloud.admin.site_policy import (
    EVIDENCE_CLASSES,
    EvidenceClass,
    Limits,
    OnlineCheck,
    Place,
    Places,
    Scorecard,
)

PROFILES: Mapping[str, directive_pb2.DeviceProfile.ValueType] = {
    "session": directive_pb2.DEVICE_PROFILE_SESSION,
    "one-shot": directive_pb2.DEVICE_PROFILE_ONE_SHOT,
    "standing": directive_pb2.DEVICE_PROFILE_STANDING,
}
PROFILE_NAMES: Mapping[int, str] = {number: name for name, number in PROFILES.items()}


class Operator(Section):
    id: str
    name: str
    currency: str
    #: The most that floors may give one account over all gateways.
    floor_per_account: Micros = 0

    def message(self) -> registry_pb2.Operator:
        """As the registry takes it."""
        return registry_pb2.Operator(
            operator_id=self.id,
            name=self.name,
            currency=self.currency,
            floor_per_account_micros=self.floor_per_account,
        )


class Agency(Section):
    id: str
    operator: str
    name: str

    def message(self) -> settlement_pb2.Agency:
        """As settlement takes it."""
        return settlement_pb2.Agency(agency_id=self.id, operator_id=self.operator, name=self.name)


class Floor(Section):
    """What may be used offline without a quota; what is not said is nothing."""

    per_token: Micros = 0
    per_account: Micros = 0
    all_tokens: Micros = 0


class Seal(Section):
    """A batch is sealed when the first of these is reached."""

    amount: Micros
    records: Annotated[int, Field(ge=1)]
    age_s: Annotated[int, Field(ge=1)]


class Site(Section):
    id: str
    operator: str
    time_zone: str
    floor: Floor = Floor()
    seal: Seal
    usage_limits: Limits | None = None
    place: Places | None = None
    scorecard: Scorecard | None = None
    online_check: OnlineCheck | None = None
    #: What is billed has evidence of this class or a stronger one, or waits for people; not said: device-signed.
    least_evidence_class: EvidenceClass | None = None

    def message(self) -> registry_pb2.Site:
        """As the registry takes it."""
        return registry_pb2.Site(
            site_id=self.id,
            operator_id=self.operator,
            time_zone=self.time_zone,
            floor=directive_pb2.FloorPolicy(
                per_token_micros=self.floor.per_token,
                per_account_micros=self.floor.per_account,
                all_tokens_micros=self.floor.all_tokens,
            ),
            seal=directive_pb2.SealPolicy(
                amount_micros=self.seal.amount, records=self.seal.records, age_s=self.seal.age_s
            ),
            usage_limits=None if self.usage_limits is None else self.usage_limits.message(),
            place=None if self.place is None else self.place.message(),
            scorecard=None if self.scorecard is None else self.scorecard.message(),
            online_check=None if self.online_check is None else self.online_check.message(),
            least_evidence_class=batch_pb2.EVIDENCE_CLASS_UNSPECIFIED
            if self.least_evidence_class is None
            else EVIDENCE_CLASSES[self.least_evidence_class],
        )


class Gateway(Section):
    id: str
    operator: str
    site: str
    exposure: Micros
    party: str

    def message(self, folder: Path) -> registry_pb2.Gateway:
        """As the registry takes it; the public keys come from the party's folder. Raise ``ConfigError``."""
        party = _party(folder, self.party, kind="gateway", party_id=self.id)
        return registry_pb2.Gateway(
            gateway_id=self.id,
            operator_id=self.operator,
            site_id=self.site,
            exposure_micros=self.exposure,
            batch_key=party.public_key("batch"),
            batch_certificate=_der_if_there(party, "batch"),
            grant_key=party.public_key("grant"),
            unwrap_key=_point(party, "unwrap"),
        )


class SplitPart(Section):
    path: str
    percent: SharePpm


class SplitRule(Section):
    site: str
    operator: str
    version: Annotated[int, Field(ge=1)]
    parts: Annotated[tuple[SplitPart, ...], Field(strict=False)]
    remainder: str

    def message(self) -> settlement_pb2.SplitRule:
        """As settlement takes it; in force from the beginning (first version) or from now."""
        return settlement_pb2.SplitRule(
            operator_id=self.operator,
            site_id=self.site,
            version=self.version,
            parts=[ledger_pb2.SplitPart(path=part.path, share_ppm=part.percent) for part in self.parts],
            remainder_path=self.remainder,
        )


class Tariff(Section):
    id: str
    operator: str
    version: Annotated[int, Field(ge=1)]
    currency: str
    ocpi: dict[str, Any] | None = None
    file: str | None = None

    def message(self, folder: Path) -> registry_pb2.Tariff:
        """As the registry takes it: a file byte for byte, an inline table as compact JSON. Raise ``ConfigError``."""
        if (self.ocpi is None) == (self.file is None):
            raise ConfigError(f"tariff {self.id}: say either ocpi = {{…}} or file = “…json”")
        if self.file is not None:
            path = folder / self.file
            try:
                content = path.read_bytes()
            except OSError as err:
                raise ConfigError(f"tariff {self.id}: {path}: {err.strerror}") from err
        else:
            content = exact_json(self.ocpi).encode()
        return registry_pb2.Tariff(
            operator_id=self.operator,
            tariff=directive_pb2.TariffRecord(
                tariff_id=self.id, version=self.version, currency=self.currency, ocpi_json=content
            ),
        )


class Register(Section):
    id: str
    epoch: Annotated[int, Field(ge=0)] = 1
    unit: str
    modulus: Annotated[int, Field(ge=2)]
    rated_per_hour: Annotated[int, Field(ge=1)]


class Device(Section):
    id: str
    operator: str
    sites: Annotated[tuple[str, ...], Field(strict=False)]
    party: str
    profile: Literal["session", "one-shot", "standing"]
    tariff: str
    tariff_version: Annotated[int, Field(ge=1)] = 1
    report_interval_s: Annotated[int, Field(ge=1)]
    stoppable: bool
    #: Serves only what an entitlement covers.
    entitled_only: bool = False
    standing_account: str | None = None
    device_epoch: Annotated[int, Field(ge=1)] = 1
    #: Where it stands; absent for one that moves.
    position: Place | None = None
    registers: Annotated[tuple[Register, ...], Field(strict=False)]

    def message(self, folder: Path) -> registry_pb2.Device:
        """As the registry takes it; keys and certificate come from the party's folder. Raise ``ConfigError``."""
        party = _party(folder, self.party, kind="device", party_id=self.id)
        speaks_edhoc = party.static_dh_kid is not None
        return registry_pb2.Device(
            operator_id=self.operator,
            site_ids=self.sites,
            record=directive_pb2.DeviceRecord(
                device_id=self.id,
                device_epoch=self.device_epoch,
                profile=PROFILES[self.profile],
                statement_key=party.public_key("statement"),
                static_dh_x=_point(party, "static-dh")[1:33] if speaks_edhoc else b"",
                static_dh_kid=party.kid if speaks_edhoc else b"",
                registers=[
                    directive_pb2.RegisterRecord(
                        register_id=register.id,
                        register_epoch=register.epoch,
                        unit=register.unit,
                        modulus=register.modulus,
                        rated_per_hour=register.rated_per_hour,
                    )
                    for register in self.registers
                ],
                tariff_id=self.tariff,
                tariff_version=self.tariff_version,
                report_interval_s=self.report_interval_s,
                standing_account_id=self.standing_account or "",
                stoppable=self.stoppable,
                entitled_only=self.entitled_only,
                position=None if self.position is None else self.position.message(),
            ),
            certificate=_der(party, "statement"),
        )


class Account(Section):
    id: str
    operator: str
    currency: str
    credit_limit: Micros = 0
    debt_limit: Micros = 0
    preload: Micros = 0

    def message(self) -> ledger_pb2.CreateAccountRequest:
        """As the ledger takes it."""
        return ledger_pb2.CreateAccountRequest(
            operator_id=self.operator,
            account_id=self.id,
            currency=self.currency,
            credit_limit_micros=self.credit_limit,
            debt_limit_micros=self.debt_limit,
            preload_micros=self.preload,
            status=directive_pb2.ACCOUNT_STATUS_ACTIVE,
        )


class Token(Section):
    operator: str
    account: str
    label: str
    #: The original. Never shown: a fault names its place only.
    token: Annotated[str, Field(repr=False)]

    def message(self) -> vault_pb2.PutTokenRequest:
        """As the vault takes it. Raise ``ConfigError``."""
        return vault_pb2.PutTokenRequest(
            operator_id=self.operator, account_id=self.account, label=self.label, token=token_bytes(self.token)
        )


class Entitlement(Section):
    """What ``account`` may use under a tariff of its own, paid by the account ``paid_by``."""

    id: str
    operator: str
    account: str
    paid_by: str
    tariff: str
    tariff_version: Annotated[int, Field(ge=1)] = 1
    device_tariffs: Annotated[tuple[str, ...], Field(strict=False)] = ()
    unit: str = ""
    start: InstantUs
    until: InstantUs
    priority: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    #: None: all of the operator's.
    sites: Annotated[tuple[str, ...], Field(strict=False)] = ()

    def message(self) -> registry_pb2.Entitlement:
        """As the registry takes it."""
        return registry_pb2.Entitlement(
            operator_id=self.operator,
            site_ids=self.sites,
            record=directive_pb2.EntitlementRecord(
                entitlement_id=self.id,
                account_id=self.account,
                paid_by_account_id=self.paid_by,
                tariff_id=self.tariff,
                tariff_version=self.tariff_version,
                device_tariff_ids=self.device_tariffs,
                unit=self.unit,
                from_us=self.start,
                until_us=self.until,
                priority=self.priority,
            ),
        )


class Funding(Section):
    operator: str
    account: str
    amount: Micros
    payment_id: str
    source: str

    def message(self, currency: str) -> ledger_pb2.FundAccountRequest:
        """As the ledger takes it."""
        return ledger_pb2.FundAccountRequest(
            operator_id=self.operator,
            account_id=self.account,
            currency=currency,
            amount_micros=self.amount,
            payment_id=self.payment_id,
            source=self.source,
        )


class Document(Section):
    """Everything that one file may say."""

    operators: Annotated[tuple[Operator, ...], Field(strict=False)] = ()
    agencies: Annotated[tuple[Agency, ...], Field(strict=False)] = ()
    sites: Annotated[tuple[Site, ...], Field(strict=False)] = ()
    gateways: Annotated[tuple[Gateway, ...], Field(strict=False)] = ()
    split_rules: Annotated[tuple[SplitRule, ...], Field(strict=False)] = ()
    tariffs: Annotated[tuple[Tariff, ...], Field(strict=False)] = ()
    accounts: Annotated[tuple[Account, ...], Field(strict=False)] = ()
    fundings: Annotated[tuple[Funding, ...], Field(strict=False)] = ()
    devices: Annotated[tuple[Device, ...], Field(strict=False)] = ()
    tokens: Annotated[tuple[Token, ...], Field(strict=False)] = ()
    entitlements: Annotated[tuple[Entitlement, ...], Field(strict=False)] = ()


def read_document(path: Path) -> Document:
    """Read ``path``; raise ``ConfigError`` naming every fault's place."""
    try:
        # Decimals, so that a tariff's 0.25 stays 0.25.
        return Document.model_validate(read_toml(path, parse_float=Decimal))
    except ValidationError as err:
        raise ConfigError(explain(path, err)) from err


def token_bytes(text: str) -> bytes:
    """A token as typed: text as UTF-8, or bytes as ``hex:04a2…``. Raise ``ConfigError`` that does not repeat it."""
    if not text.startswith("hex:"):
        return text.encode()
    try:
        return bytes.fromhex(text.removeprefix("hex:"))
    except ValueError as err:
        raise ConfigError("a token that begins with hex: goes on in pairs of hexadecimal digits") from err


def exact_json(value: object) -> str:
    """Compact JSON in which a decimal stays the decimal that was written; raise ``ConfigError`` for what JSON has not."""
    import json

    match value:
        case Decimal():
            if not value.is_finite():
                raise ConfigError(f"JSON has no {value}")
            return format(value, "f")
        case dict():
            return "{" + ",".join(f"{json.dumps(str(name))}:{exact_json(each)}" for name, each in value.items()) + "}"
        case list() | tuple():
            return "[" + ",".join(exact_json(each) for each in value) + "]"
        case datetime() | date() | time():
            return json.dumps(value.isoformat().replace("+00:00", "Z"))
        case _:
            return json.dumps(value, ensure_ascii=False)


def _party(folder: Path, name: str, *, kind: str, party_id: str) -> Party:
    path = folder / name
    try:
        party = load_party(path)
    except PartyError as err:
        raise ConfigError(f"{kind} {party_id}: {err}") from err
    if (party.kind, party.id) != (kind, party_id):
        raise ConfigError(f"{kind} {party_id}: {path} is the folder of {party.kind} {party.id}")
    return party


def _point(party: Party, label: str) -> bytes:
    key = load_der_public_key(party.public_key(label))
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConfigError(f"{party.kind} {party.id}: its key {label} is on no curve")
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _der(party: Party, name: str) -> bytes:
    return x509.load_pem_x509_certificate(party.certificate(name)).public_bytes(Encoding.DER)


def _der_if_there(party: Party, name: str) -> bytes:
    """A certificate that parties of an earlier ceremony have not: without it bundles say that nobody vouches for the key."""
    return _der(party, name) if (party.certificates / f"{name}.pem").is_file() else b""
