"""Commands on evidence: the ledger's parts and the registry's certificates make one file; a no is one sentence."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import Result
from cryptography.hazmat.primitives.serialization import Encoding
from evidence_bundles import ROOT, certificate, der
from evidence_scene import PRIVATE_KEYS
from published_entries import BATCH_VOUCHER, ENTRIES, LOG_VOUCHER, PLAIN, RECEIPT_VOUCHER, published
from typer.testing import CliRunner

from farthing.evidence.batches import batch_hash
from farthing.evidence.bundle import decode
from farthing.tlog.entries import BatchEntry, DeviceEntry
from farthing.tlog.entries import decode as decode_entry
from farthing.v1 import (
    directive_pb2,
    ledger_pb2,
    ledger_pb2_grpc,
    publiclog_pb2,
    publiclog_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
)
from farthing_cloud.admin.evidence import evidence

WHOLE = PLAIN
NAME = WHOLE.authorization.hex()
Run = Callable[..., Result]


class Ledger(ledger_pb2_grpc.LedgerServicer):
    """Sends a bundle without certificates, in small parts."""

    data = replace(WHOLE, certificates=()).encode()
    asked: ledger_pb2.ExportEvidenceRequest | None = None

    def export_evidence(self, request: Any, context: Any) -> Iterator[Any]:
        Ledger.asked = request
        if request.authorization_id != WHOLE.authorization:
            context.abort(grpc.StatusCode.NOT_FOUND, "nobody has billed it")
        for start in range(0, len(self.data), 1000):
            yield ledger_pb2.ExportEvidenceResponse(part=self.data[start : start + 1000])

    ExportEvidence = export_evidence


class Registry(registry_pb2_grpc.RegistryServicer):
    """Knows the device, and another."""

    def list_devices(self, _request: Any, _context: Any) -> registry_pb2.ListDevicesResponse:
        return registry_pb2.ListDevicesResponse(
            devices=[
                registry_pb2.Device(record=directive_pb2.DeviceRecord(device_id=name), certificate=certificate)
                for name, certificate in (("toll", b"another"), ("charger", WHOLE.certificates[0]))
            ]
        )

    ListDevices = list_devices

    def list_gateways(self, _request: Any, _context: Any) -> registry_pb2.ListGatewaysResponse:
        return registry_pb2.ListGatewaysResponse(
            gateways=[
                registry_pb2.Gateway(gateway_id="another", batch_certificate=b"another's"),
                registry_pb2.Gateway(gateway_id=WHOLE.gateway, batch_certificate=BATCH_VOUCHER),
            ]
        )

    ListGateways = list_gateways


class PublicLog(publiclog_pb2_grpc.PublicLogServicer):
    """Has published what the bundle is about."""

    def prove_entries(self, request: Any, _context: Any) -> publiclog_pb2.ProveEntriesResponse:
        wanted = {"batches": BatchEntry, "devices": DeviceEntry}[request.log]
        subjects = {
            "batches": [batch_hash(each.batch.body) for each in WHOLE.batches],
            "devices": [WHOLE.billed.device.encode()],
        }
        assert list(request.subjects) == subjects[request.log]
        found = [each for each in published(ENTRIES) if isinstance(decode_entry(each.entry), wanted)]
        return publiclog_pb2.ProveEntriesResponse(
            checkpoint=found[0].checkpoint,
            entries=[publiclog_pb2.ProvenEntry(index=each.index, entry=each.entry, path=each.path) for each in found],
        )

    ProveEntries = prove_entries


@pytest.fixture
def logs() -> list[PublicLog]:
    """The public log, where one runs."""
    return []


@pytest.fixture
def run(logs: list[PublicLog]) -> Iterator[Run]:
    with ThreadPoolExecutor(max_workers=2) as pool:
        server = grpc.server(pool)
        for log in logs:
            publiclog_pb2_grpc.add_PublicLogServicer_to_server(log, server)
        ledger_pb2_grpc.add_LedgerServicer_to_server(Ledger(), server)
        registry_pb2_grpc.add_RegistryServicer_to_server(Registry(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield lambda *words: CliRunner().invoke(evidence, [str(word) for word in words], obj=lambda: channel)
        server.stop(None).wait()


OP = ("--operator", "op")


def test_a_bill_is_shown_exported_and_verified(run: Run, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(ROOT.public_bytes(Encoding.PEM))
    shown = run("show", NAME, *OP, "--ca", tmp_path / "ca.pem", "--gateway", "gw-1", "--last", 7)
    assert shown.exit_code == 0, shown.output
    assert "end 1/13" in shown.output
    assert "which account and quota paid: that is the gateway's word" in shown.output
    assert Ledger.asked is not None
    assert (Ledger.asked.gateway_id, Ledger.asked.last_batches) == ("gw-1", 7)
    for name in ("b.cbor", "b.json"):
        exported = run("export", NAME, *OP, "--out", tmp_path / name)
        assert exported.exit_code == 0, exported.output
        # No public log runs: that is said, and the bundle is whole without it.
        assert "without entries of the public log batches" in exported.output
        assert decode((tmp_path / name).read_bytes()) == replace(WHOLE, key_certificates=(BATCH_VOUCHER,))
        assert run("verify", tmp_path / name, "--ca", tmp_path / "ca.pem").exit_code == 0
    # A key of before, which the registry does not keep any more.
    earlier = certificate("charger", PRIVATE_KEYS["stranger"])
    (tmp_path / "old.pem").write_bytes(earlier.public_bytes(Encoding.PEM))
    assert run("export", NAME, *OP, "--out", tmp_path / "c.cbor", "--certificate", tmp_path / "old.pem").exit_code == 0
    assert decode((tmp_path / "c.cbor").read_bytes()).certificates == (*WHOLE.certificates, der(earlier))
    again = run("export", NAME, *OP, "--out", tmp_path / "b.cbor")
    assert (again.exit_code, "File exists" in again.output) == (1, True)


@pytest.mark.parametrize("logs", [[PublicLog()]], ids=["published"])
def test_a_bundle_brings_what_the_root_and_the_public_logs_say(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ca.pem").write_bytes(ROOT.public_bytes(Encoding.PEM))
    of_the_cloud = replace(WHOLE, certificates=(), key_certificates=(RECEIPT_VOUCHER, LOG_VOUCHER))
    monkeypatch.setattr(Ledger, "data", of_the_cloud.encode())
    assert run("export", NAME, *OP, "--out", tmp_path / "b.cbor").exit_code == 0
    verified = run("verify", tmp_path / "b.cbor", "--ca", tmp_path / "ca.pem")
    assert verified.exit_code == 0, verified.output
    said = " ".join(verified.output.split())
    assert "the batch key is the gateway's: the root says so" in said
    assert "the receipt key is the cloud's: the root says so" in said
    assert said.count("and its receipt stand in the public log") == 2
    assert "the certificate of charger stands in the public log" in said


def test_what_does_not_hold_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    dearer = replace(WHOLE, certificates=(), billed=replace(WHOLE.billed, net_micros=1_125_001))
    monkeypatch.setattr(Ledger, "data", dearer.encode())
    shown = run("show", NAME, *OP)
    assert (shown.exit_code, "does not hold: billed: 1.125001" in shown.output) == (1, True)
    monkeypatch.setattr(Ledger, "data", b"rubbish")
    shown = run("show", NAME, *OP)
    assert (shown.exit_code, "the ledger's answer cannot be read" in shown.output) == (1, True)


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("show", "xyz"), 2, "is no authorization's id"),
        (("show", NAME[:-2]), 2, "is no authorization's id"),
        (("show", "00" * 16), 1, "not found: nobody has billed it"),
        (("show", NAME, "--last", "-1"), 2, "--last"),
        (("show", NAME, "--ca", "/none"), 1, "/none: No such file"),
        (("show", NAME, "--certificate", __file__), 1, "no certificate in PEM or DER"),
        (("export", NAME), 2, "--out"),
        (("export", NAME, "--out", "b.txt"), 2, "ends in .cbor or .json"),
        (("export", NAME, "--out", "/none/b.cbor"), 1, "/none/b.cbor: No such file"),
    ],
)
def test_a_no_is_one_sentence(run: Run, words: tuple[str, ...], code: int, sentence: str) -> None:
    result = run(words[0], *words[1:], *OP)
    assert result.exit_code == code
    assert sentence in " ".join(result.output.replace("│", " ").split())
