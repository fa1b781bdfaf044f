"""A bundle: all that somebody without access to the cloud needs to check what one authorization was billed, in one file.

Rule 1: nothing in it is believed because it stands there; :func:`farthing.evidence.proof.prove` says what follows from it.
Rule 2: as CBOR it has one encoding (RFC 8949, section 4.2.1). As JSON it is the same for people: byte strings are hexadecimal.
Rule 3: a batch is whole, since its signature is over all its bytes: it names the other accounts and devices of its lines and claims, by id.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import cbor2

from farthing.device import cbor
from farthing.ids import (
    AUTHORIZATION_ID_SIZE,
    AuthorizationId,
    DeviceId,
    GatewayId,
    IdError,
    OperatorId,
    RegisterId,
    parse_bytes,
    parse_id,
)

FORMAT: Final = "farthing/evidence/2"
#: The same with a word that another gateway carried.
FORMAT_CARRIED: Final = "farthing/evidence/3"
#: With the keys that the gateway had before; written only where there are any, so that who knows no such thing reads all others.
FORMAT_KEYS: Final = "farthing/evidence/4"
#: What was written before keys had certificates and logs were published; still read.
FORMAT_1: Final = "farthing/evidence/1"
#: Batches of one bundle: a session that is read every quarter of an hour has as many in ten days.
MAX_BATCHES: Final = 1_024
#: The largest bundle that is read: a session of MAX_BATCHES batches of ordinary size (40 kB), with room.
MAX_BUNDLE_SIZE: Final = 64 * 1024 * 1024
#: Tariff versions, registers, keys and certificates: one authorization has one register and few of the others.
MAX_NAMED: Final = 64
#: Leaves of one authorization in one batch: its records there, each on two lines.
MAX_OWN_LEAVES: Final = 20_000
#: A tree of 2^32 leaves is that high.
MAX_PATH: Final = 32
#: Entries of the public logs: one or two for each batch, and a device's life.
MAX_PUBLISHED: Final = 2 * MAX_BATCHES + 64
#: A public log has fewer than 2^63 leaves.
MAX_LOG_PATH: Final = 63

T = TypeVar("T")


class BundleError(ValueError):
    """Bytes that are not a bundle; the message names the field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Billed:
    """The ledger's highest claim: what it says that the authorization was billed. Register values are unrolled."""

    device: DeviceId
    register_id: RegisterId
    register_epoch: int
    register_from: int
    register_to: int
    net_micros: int
    tax_micros: int
    final: bool
    #: Set aside in a case, and not on anybody's bill.
    aside: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedLeaf:
    """A leaf, its index in its batch, and the path from it to the root (RFC 9162, section 2.1.3)."""

    index: int
    leaf: bytes
    path: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """Bytes with the signature over them (batches, receipts)."""

    body: bytes
    signature: bytes
    key_id: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class BundledBatch:
    """A batch with its leaves of the authorization; ``receipt`` is None where the ledger has not signed one yet."""

    batch: Sealed
    receipt: Sealed | None
    leaves: tuple[PlacedLeaf, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedWord:
    """The last word of the authorization as another gateway carried it up: it stands in the carrier's batch itself, not in a leaf.

    ``grant_key``: of the gateway that gave the authorization (SubjectPublicKeyInfo, DER). ``standing_tariffs``: under which tariffs the
    ledger had told that gateway of the device as a standing one; only such a word has no grant.
    """

    carrier: GatewayId
    grant_key: bytes
    standing_tariffs: tuple[str, ...]
    batch: BundledBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedEntry:
    """An entry of a public log, its index, its path, and the checkpoint (a signed note) that it leads to."""

    checkpoint: bytes
    index: int
    entry: bytes
    path: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedTariff:
    """A version of a tariff: the OCPI object as the operator gave it (JSON, UTF-8)."""

    tariff_id: str
    version: int
    ocpi_json: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedRegister:
    """A device's register in one epoch."""

    device: DeviceId
    register_id: RegisterId
    register_epoch: int
    unit: str
    modulus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """The evidence of one authorization; batches in the order in which their gateway sealed them.

    Where another gateway carried its last word, ``carried`` is that gateway's batch, and there are no others: the word says all of the use.
    ``gateway_key`` (of whoever signed the batches, that of the last one) and ``receipt_keys`` are SubjectPublicKeyInfo (DER) as the ledger has them on record; ``certificates`` are the device's (DER),
    ``key_certificates`` (DER) are those by which a root vouches for the gateway's batch key and the cloud's receipt and log keys.
    """

    operator: OperatorId
    gateway: GatewayId
    authorization: AuthorizationId
    billed: Billed
    time_zone: str
    gateway_key: bytes
    receipt_keys: tuple[bytes, ...]
    tariffs: tuple[NamedTariff, ...]
    registers: tuple[NamedRegister, ...]
    certificates: tuple[bytes, ...]
    batches: tuple[BundledBatch, ...]
    key_certificates: tuple[bytes, ...] = ()
    published: tuple[PublishedEntry, ...] = ()
    carried: CarriedWord | None = None
    #: Batch keys that the gateway had before ``gateway_key``, as far as they signed batches in here.
    earlier_gateway_keys: tuple[bytes, ...] = ()

    @property
    def signed_batches(self) -> tuple[BundledBatch, ...]:
        """Every batch that stands in it."""
        return self.batches if self.carried is None else (*self.batches, self.carried.batch)

    @property
    def batched_by(self) -> GatewayId:
        """Who signed the batches."""
        return self.gateway if self.carried is None else self.carried.carrier

    def encode(self) -> bytes:
        """The one CBOR encoding."""
        return cbor2.dumps(self._plain(), canonical=True)

    def encode_json(self) -> str:
        """The same as JSON."""
        return json.dumps(_hexed(self._plain()), ensure_ascii=False, indent=1)

    def _format(self) -> str:
        if self.carried is not None:
            return FORMAT_CARRIED
        return FORMAT_KEYS if self.earlier_gateway_keys else FORMAT

    def _plain(self) -> dict[str, object]:
        billed = self.billed
        earlier = {"earlier_gateway_keys": list(self.earlier_gateway_keys)} if self.earlier_gateway_keys else {}
        return {
            "format": self._format(),
            **earlier,
            "operator": self.operator,
            "gateway": self.gateway,
            "authorization": self.authorization,
            "billed": {
                "device": billed.device,
                "register": billed.register_id,
                "register_epoch": billed.register_epoch,
                "from": billed.register_from,
                "to": billed.register_to,
                "net_micros": billed.net_micros,
                "tax_micros": billed.tax_micros,
                "final": billed.final,
                "aside": billed.aside,
            },
            "time_zone": self.time_zone,
            "gateway_key": self.gateway_key,
            "receipt_keys": list(self.receipt_keys),
            "tariffs": [
                {"id": tariff.tariff_id, "version": tariff.version, "ocpi": tariff.ocpi_json} for tariff in self.tariffs
            ],
            "registers": [
                {
                    "device": register.device,
                    "register": register.register_id,
                    "register_epoch": register.register_epoch,
                    "unit": register.unit,
                    "modulus": register.modulus,
                }
                for register in self.registers
            ],
            "certificates": list(self.certificates),
            "key_certificates": list(self.key_certificates),
            "published": [
                {
                    "checkpoint": published.checkpoint,
                    "index": published.index,
                    "entry": published.entry,
                    "path": list(published.path),
                }
                for published in self.published
            ],
            "batches": [_batched(batch) for batch in self.batches],
            **({} if self.carried is None else {"carried": _carried(self.carried)}),
        }


def decode(data: bytes) -> Bundle:
    """The bundle in ``data``, CBOR or JSON; raise ``BundleError`` for anything else."""
    if len(data) > MAX_BUNDLE_SIZE:
        raise BundleError(f"a bundle has at most {MAX_BUNDLE_SIZE} bytes")
    # A CBOR map begins with 0xa0 to 0xbf, which no UTF-8 text does.
    if data[:1] and data[0] >= 0xA0:
        try:
            return _bundle(_Fields(cbor.decode(data), "the bundle", hexed=False))
        except cbor.CborError as err:
            raise BundleError(f"not CBOR in its one form: {err}") from err
    try:
        plain = json.loads(data, parse_float=_no_float, parse_constant=_no_float)
    except (ValueError, RecursionError) as err:
        raise BundleError("neither CBOR nor JSON") from err
    return _bundle(_Fields(plain, "the bundle", hexed=True))


# --- reading ----------------------------------------------------------------------------------------------------------


class _Fields:
    """A map whose every field is asked for, and for nothing else."""

    def __init__(self, value: object, where: str, *, hexed: bool) -> None:
        if not isinstance(value, Mapping):
            raise BundleError(f"{where}: not a map")
        self._left = dict(value)
        self._where = where
        self._hexed = hexed

    def _take(self, name: str) -> object:
        try:
            return self._left.pop(name)
        except KeyError:
            raise BundleError(f"{self._where}: {name} is missing") from None

    def _is(self, name: str, value: object, kind: type[T]) -> T:
        # bool is an int to isinstance, and is none here.
        if value.__class__ is not kind:
            raise BundleError(f"{self._where}: {name} is not {_KINDS[kind]}")
        assert isinstance(value, kind)
        return value

    def text(self, name: str) -> str:
        return self._is(name, self._take(name), str)

    def id(self, name: str) -> str:
        try:
            return parse_id(self._take(name))
        except IdError as err:
            raise BundleError(f"{self._where}: {name}: {err}") from err

    def flag(self, name: str) -> bool:
        return self._is(name, self._take(name), bool)

    def count(self, name: str) -> int:
        value = self._is(name, self._take(name), int)
        if not 0 <= value < 2**64:
            raise BundleError(f"{self._where}: {name} is out of its range")
        return value

    def octets(self, name: str) -> bytes:
        return self._octets(name, self._take(name))

    def _octets(self, name: str, value: object) -> bytes:
        if not self._hexed:
            return self._is(name, value, bytes)
        text = self._is(name, value, str)
        try:
            found = bytes.fromhex(text)
        except ValueError as err:
            raise BundleError(f"{self._where}: {name} is not hexadecimal") from err
        # fromhex passes over spaces; here each value has one spelling.
        if found.hex() != text:
            raise BundleError(f"{self._where}: {name} is not plain lower-case hexadecimal")
        return found

    def _items(self, name: str, most: int) -> list[object]:
        value = self._take(name)
        if not isinstance(value, (list, tuple)) or len(value) > most:
            raise BundleError(f"{self._where}: {name} is not a list of at most {most}")
        return list(value)

    def byte_strings(self, name: str, most: int) -> tuple[bytes, ...]:
        return tuple(self._octets(name, item) for item in self._items(name, most))

    def texts(self, name: str, most: int) -> tuple[str, ...]:
        return tuple(self._is(name, item, str) for item in self._items(name, most))

    def one(self, name: str) -> "_Fields":
        return _Fields(self._take(name), name, hexed=self._hexed)

    def maybe(self, name: str) -> "_Fields | None":
        value = self._take(name)
        return None if value is None else _Fields(value, name, hexed=self._hexed)

    def many(self, name: str, most: int) -> "list[_Fields]":
        items = self._items(name, most)
        return [_Fields(item, f"{name}[{number}]", hexed=self._hexed) for number, item in enumerate(items)]

    def end(self) -> None:
        if self._left:
            raise BundleError(f"{self._where}: {min(map(str, self._left))[:40]} is no field of it")


_KINDS: Final[Mapping[type, str]] = {str: "text", bool: "a boolean", int: "an integer", bytes: "a byte string"}


def _bundle(fields: _Fields) -> Bundle:
    form = fields.text("format")
    if form not in (FORMAT_KEYS, FORMAT_CARRIED, FORMAT, FORMAT_1):
        raise BundleError(f"another format than {FORMAT}")
    try:
        authorization = AuthorizationId(parse_bytes(fields.octets("authorization"), AUTHORIZATION_ID_SIZE))
    except IdError as err:
        raise BundleError(f"authorization: {err}") from err
    bundle = Bundle(
        operator=OperatorId(fields.id("operator")),
        gateway=GatewayId(fields.id("gateway")),
        authorization=authorization,
        billed=_billed(fields.one("billed")),
        time_zone=fields.text("time_zone"),
        gateway_key=fields.octets("gateway_key"),
        receipt_keys=fields.byte_strings("receipt_keys", MAX_NAMED),
        tariffs=tuple(map(_tariff, fields.many("tariffs", MAX_NAMED))),
        registers=tuple(map(_register, fields.many("registers", MAX_NAMED))),
        certificates=fields.byte_strings("certificates", MAX_NAMED),
        batches=tuple(map(_batch, fields.many("batches", MAX_BATCHES))),
        key_certificates=() if form == FORMAT_1 else fields.byte_strings("key_certificates", MAX_NAMED),
        published=() if form == FORMAT_1 else tuple(map(_published, fields.many("published", MAX_PUBLISHED))),
        carried=_read_carried(fields.one("carried")) if form == FORMAT_CARRIED else None,
        earlier_gateway_keys=fields.byte_strings("earlier_gateway_keys", MAX_NAMED) if form == FORMAT_KEYS else (),
    )
    fields.end()
    if form == FORMAT_KEYS and not bundle.earlier_gateway_keys:
        raise BundleError(f"no earlier keys: that is {FORMAT}")
    return bundle


def _published(fields: _Fields) -> PublishedEntry:
    published = PublishedEntry(
        checkpoint=fields.octets("checkpoint"),
        index=fields.count("index"),
        entry=fields.octets("entry"),
        path=fields.byte_strings("path", MAX_LOG_PATH),
    )
    fields.end()
    return published


def _billed(fields: _Fields) -> Billed:
    billed = Billed(
        device=DeviceId(fields.id("device")),
        register_id=RegisterId(fields.id("register")),
        register_epoch=fields.count("register_epoch"),
        register_from=fields.count("from"),
        register_to=fields.count("to"),
        net_micros=fields.count("net_micros"),
        tax_micros=fields.count("tax_micros"),
        final=fields.flag("final"),
        aside=fields.flag("aside"),
    )
    fields.end()
    return billed


def _tariff(fields: _Fields) -> NamedTariff:
    tariff = NamedTariff(tariff_id=fields.id("id"), version=fields.count("version"), ocpi_json=fields.text("ocpi"))
    fields.end()
    return tariff


def _register(fields: _Fields) -> NamedRegister:
    register = NamedRegister(
        device=DeviceId(fields.id("device")),
        register_id=RegisterId(fields.id("register")),
        register_epoch=fields.count("register_epoch"),
        unit=fields.text("unit"),
        modulus=fields.count("modulus"),
    )
    fields.end()
    return register


def _batch(fields: _Fields) -> BundledBatch:
    receipt = fields.maybe("receipt")
    batch = BundledBatch(
        batch=_read_sealed(fields.one("batch")),
        receipt=None if receipt is None else _read_sealed(receipt),
        leaves=tuple(map(_leaf, fields.many("leaves", MAX_OWN_LEAVES))),
    )
    fields.end()
    return batch


def _leaf(fields: _Fields) -> PlacedLeaf:
    leaf = PlacedLeaf(
        index=fields.count("index"), leaf=fields.octets("leaf"), path=fields.byte_strings("path", MAX_PATH)
    )
    fields.end()
    return leaf


def _read_carried(fields: _Fields) -> CarriedWord:
    carried = CarriedWord(
        carrier=GatewayId(fields.id("carrier")),
        grant_key=fields.octets("grant_key"),
        standing_tariffs=fields.texts("standing_tariffs", MAX_NAMED),
        batch=_batch(fields.one("batch")),
    )
    fields.end()
    return carried


def _read_sealed(fields: _Fields) -> Sealed:
    sealed = Sealed(body=fields.octets("body"), signature=fields.octets("signature"), key_id=fields.octets("key_id"))
    fields.end()
    return sealed


def _batched(batch: BundledBatch) -> dict[str, object]:
    return {
        "batch": _sealed(batch.batch),
        "receipt": None if batch.receipt is None else _sealed(batch.receipt),
        "leaves": [{"index": leaf.index, "leaf": leaf.leaf, "path": list(leaf.path)} for leaf in batch.leaves],
    }


def _carried(carried: CarriedWord) -> dict[str, object]:
    return {
        "carrier": carried.carrier,
        "grant_key": carried.grant_key,
        "standing_tariffs": list(carried.standing_tariffs),
        "batch": _batched(carried.batch),
    }


def _sealed(sealed: Sealed) -> dict[str, object]:
    return {"body": sealed.body, "signature": sealed.signature, "key_id": sealed.key_id}


def _hexed(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {name: _hexed(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_hexed(item) for item in value]
    return value


def _no_float(text: str) -> object:
    raise ValueError(f"{text} is no integer")
