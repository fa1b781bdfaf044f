"""What may be registered, and the life of things, as tables."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
from back_office_parts import device, device_party, gateway, operator, site
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from farthing.device.cose import key_id
from farthing.hsm import load_party
from farthing.v1 import directive_pb2, registry_pb2
from farthing_cloud.registry.batch_keys import keep_batch_keys, revoke_batch_key
from farthing_cloud.registry.checks import Unfit, check_device, check_fit, check_gateway, check_operator, check_site
from farthing_cloud.registry.differences import differences
from farthing_cloud.registry.life import (
    DEVICE_STEPS,
    GATEWAY_STEPS,
    REDUCING_STEPS,
    IllegalStep,
    device_step,
    gateway_step,
)

pytestmark = pytest.mark.real


@pytest.fixture
def root(parties: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(load_party(parties / "ca").certificate("ca"))


def test_the_certificate_binds_key_and_id(parties: Path, root: x509.Certificate) -> None:
    good = device(parties)
    check_device(good, root=root)
    other = device_party(parties, "toll-1")
    identity = x509.load_pem_x509_certificate(device_party(parties, "chg-1").certificate("identity"))
    issuing = x509.load_pem_x509_certificate(load_party(parties / "cloud").certificate("issuing"))
    wrong: list[tuple[str, registry_pb2.Device, x509.Certificate]] = []

    def case(word: str, *, by: x509.Certificate = root, **changes: object) -> None:
        broken = registry_pb2.Device()
        broken.CopyFrom(good)
        for name, value in changes.items():
            setattr(broken, name, value)
        wrong.append((word, broken, by))

    case("not an X.509", certificate=b"no")
    case("another key", certificate=identity.public_bytes(Encoding.DER))
    case(
        "names toll-1",
        certificate=x509.load_pem_x509_certificate(other.certificate("statement")).public_bytes(Encoding.DER),
    )
    case("did not issue", by=issuing)
    for word, broken, by in wrong:
        with pytest.raises(Unfit, match=word):
            check_device(broken, root=by)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"profile": directive_pb2.DEVICE_PROFILE_UNSPECIFIED}, "profile"),
        ({"profile": directive_pb2.DEVICE_PROFILE_STANDING}, "standing_account_id"),
        ({"standing_account_id": "acme"}, "standing_account_id"),
        ({"registers": []}, "registers"),
        ({"registers": [directive_pb2.RegisterRecord(register_id="1", unit="Wh", modulus=1)]}, "modulus"),
        # No reading could be taken: with one more turn it would count beyond all counts.
        ({"registers": [directive_pb2.RegisterRecord(register_id="1", unit="Wh", modulus=2**63 - 1)]}, "modulus"),
        ({"report_interval_s": 0}, "report_interval_s"),
        ({"tariff_version": 0}, "tariff_version"),
        ({"static_dh_x": b"\x01" * 31}, "static_dh_x"),
        ({"static_dh_x": b"\xff" * 32}, "static_dh_x"),
        ({"static_dh_kid": b""}, "static_dh_x"),
        ({"statement_key": b"key"}, "statement_key"),
        ({"device_id": "chg/1"}, "device_id"),
    ],
)
def test_a_device_that_cannot_work_is_refused_by_field(
    parties: Path, root: x509.Certificate, changes: dict[str, object], word: str
) -> None:
    with pytest.raises(Unfit, match=word):
        check_device(device(parties, **changes), root=root)


@pytest.mark.parametrize(
    ("unit", "components", "fits"),
    [
        ("passage", ["TIME"], False),
        ("passage", ["TIME", "PARKING_TIME"], False),
        ("passage", ["TIME", "FLAT"], True),
        ("passage", ["UNIT"], True),
        ("Wh", ["ENERGY", "TIME"], True),
        ("s", ["TIME"], True),
    ],
)
def test_what_is_over_at_once_needs_a_price_that_is_not_by_time(
    parties: Path, unit: str, components: list[str], fits: bool
) -> None:
    ocpi = {
        "id": "charge",
        "currency": "EUR",
        "elements": [{"price_components": [{"type": name, "price": 1, "step_size": 1} for name in components]}],
    }
    priced = registry_pb2.Tariff(tariff=directive_pb2.TariffRecord(ocpi_json=json.dumps(ocpi).encode()))
    registers = [directive_pb2.RegisterRecord(register_id="1", register_epoch=1, unit=unit, modulus=10**9)]
    check_fit(device(parties, registers=registers).record, priced)
    at_once = device(parties, registers=registers, profile=directive_pb2.DEVICE_PROFILE_ONE_SHOT).record
    with nullcontext() if fits else pytest.raises(Unfit, match="by time alone"):
        check_fit(at_once, priced)


def test_other_things_that_cannot_be_meant(parties: Path, root: x509.Certificate) -> None:
    with pytest.raises(Unfit, match="currency"):
        check_operator(operator(currency="EURO"))
    with pytest.raises(Unfit, match="time_zone"):
        check_site(site(time_zone="Europe/Nowhere"), currency="EUR")
    with pytest.raises(Unfit, match=r"seal\.records"):
        check_site(site(seal=directive_pb2.SealPolicy(amount_micros=1, age_s=1)), currency="EUR")
    with pytest.raises(Unfit, match=r"floor\.currency"):
        check_site(site(floor=directive_pb2.FloorPolicy(currency="USD")), currency="EUR")
    with pytest.raises(Unfit, match="one key, one purpose"):
        check_gateway(gateway(parties, grant_key=gateway(parties).batch_key), root=root)
    with pytest.raises(Unfit, match="unwrap_key"):
        check_gateway(gateway(parties, unwrap_key=b"\x04" + b"\x01" * 64), root=root)
    with pytest.raises(Unfit, match="exposure"):
        check_gateway(gateway(parties, exposure_micros=-1), root=root)


def test_a_gateways_batch_key_is_vouched_for_by_the_root_or_by_nobody(parties: Path, root: x509.Certificate) -> None:
    check_gateway(gateway(parties), root=root)

    def der(party: str, name: str) -> bytes:
        return x509.load_pem_x509_certificate(load_party(parties / party).certificate(name)).public_bytes(Encoding.DER)

    check_gateway(gateway(parties, batch_certificate=der("gw-1", "batch")), root=root)
    other = x509.load_pem_x509_certificate(load_party(parties / "cloud").certificate("issuing"))
    for word, certificate, by in (
        ("does not name the batch key", der("gw-2", "batch"), root),
        ("does not name the batch key", der("gw-1", "tls"), root),
        ("did not issue", der("gw-1", "batch"), other),
        ("not an X.509", b"certificate", root),
    ):
        with pytest.raises(Unfit, match=word):
            check_gateway(gateway(parties, batch_certificate=certificate), root=by)
    good = gateway(parties, batch_certificate=der("gw-1", "batch"))
    good.batch_key, good.grant_key = good.grant_key, good.batch_key
    with pytest.raises(Unfit, match="another key"):
        check_gateway(good, root=root)


def test_every_step_that_is_not_in_the_table_is_illegal() -> None:
    devices = directive_pb2.DeviceStatus.values()
    for present in devices:
        for wanted in devices:
            if present == wanted:
                assert not device_step(present, wanted)
            elif (present, wanted) in DEVICE_STEPS:
                assert device_step(present, wanted)
            else:
                with pytest.raises(IllegalStep):
                    device_step(present, wanted)
    gateways = registry_pb2.GatewayStatus.values()
    for present_gateway in gateways:
        for wanted_gateway in gateways:
            legal = (present_gateway, wanted_gateway) in GATEWAY_STEPS or present_gateway == wanted_gateway
            if legal:
                gateway_step(present_gateway, wanted_gateway)
            else:
                with pytest.raises(IllegalStep):
                    gateway_step(present_gateway, wanted_gateway)
    assert REDUCING_STEPS < DEVICE_STEPS
    assert not any(present == directive_pb2.DEVICE_STATUS_DECOMMISSIONED for present, _ in DEVICE_STEPS)


def test_differences_show_names_never_key_bytes(parties: Path) -> None:
    found = differences(None, device(parties))
    assert any(line.startswith("record.statement_key: - -> sha256:") for line in found)
    assert differences(device(parties), device(parties)) == []
    assert differences(site(), site(time_zone="Europe/Paris")) == ["time_zone: Europe/Berlin -> Europe/Paris"]


def test_a_gateways_earlier_batch_keys_are_kept_and_a_revoked_one_never_comes_back(parties: Path) -> None:
    first, second, third = (gateway(parties), gateway(parties), gateway(parties))
    first.batch_certificate = b"by the root"
    second.batch_key, third.batch_key = first.unwrap_key, first.grant_key
    keep_batch_keys(None, first)
    keep_batch_keys(first, second)
    (earlier,) = second.earlier_batch_keys
    assert (earlier.batch_key, earlier.batch_certificate, earlier.revoked) == (first.batch_key, b"by the root", False)
    with pytest.raises(Unfit, match="keeps them itself"):
        keep_batch_keys(None, second)

    with pytest.raises(Unfit, match="names no batch key of gw-1"):
        revoke_batch_key(second, b"unknown!")
    revoke_batch_key(second, key_id(first.batch_key))
    revoke_batch_key(second, key_id(second.batch_key))
    revoke_batch_key(second, key_id(second.batch_key))
    assert [(each.batch_key, each.revoked) for each in second.earlier_batch_keys] == [
        (first.batch_key, True),
        (second.batch_key, True),
    ]
    # Its exposure may still change; its next key is another one.
    again = gateway(parties)
    again.batch_key = second.batch_key
    keep_batch_keys(second, again)
    assert again.earlier_batch_keys == second.earlier_batch_keys
    with pytest.raises(IllegalStep, match="revoked, for ever"):
        keep_batch_keys(second, gateway(parties))
    keep_batch_keys(second, third)
    assert third.earlier_batch_keys == second.earlier_batch_keys
