"""Bad input and callers with the wrong rights, against everything as it runs: refused by number, counted, no state changed."""

import json
import secrets
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from small_town import (
    CALL_TIMEOUT_S,
    CARD,
    CLERK,
    FARE_MICROS,
    GATEWAY,
    OPERATOR,
    PARKING,
    SPARE,
    STRANGER,
    SUSPECT,
    TOLL,
    Town,
    call,
)

from farthing.clock import Instant
from farthing.device import cose
from farthing.device.messages import Answer, AnswerStatus, Envelope, encode
from farthing.evidence.batches import BATCH_RECIPIENT
from farthing.refusal import Refusal
from farthing.v1 import (
    batch_pb2,
    gateway_sync_pb2,
    gateway_sync_pb2_grpc,
    ledger_pb2,
    ledger_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
)
from farthing_demo.scene import keys, table
from farthing_edge.authorization.events import Sealed, decode
from farthing_edge.journal.store import connect_to_read

# One process after the other is started and asked: minutes on a machine that does other things too.
pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]


def money(town: Town) -> dict[str, Any]:
    """What may not move when nothing was granted."""
    counts = town.status()["counts"]
    return {
        name: counts[name]
        for name in ("records", "open_authorizations", "quota_unspent_micros", "quota_held_micros", "parked")
    }


def refused(town: Town) -> dict[str, int]:
    """Refusals by number, as counted."""
    counted: dict[str, int] = town.status()["refusals"]
    return counted


def granted(answer: Answer) -> bytes:
    """What a grant says; signatures are randomized."""
    assert answer.grant is not None
    return cose.decode_sign1(answer.grant).payload


def test_the_catalogue_of_attacks_is_answered_right(town: Town) -> None:
    before = money(town)
    party = town.parties.gateways[GATEWAY]
    key = town.mqtt_key(PARKING)
    config = town.config("devices")
    config.write_text(
        keys({"out_dir": town.folder / "devices", "state_dir": town.folder / "devices-state", "seed": 1})
        + table(
            "gateways",
            {
                "id": GATEWAY,
                "mqtt": town.broker_address,
                "ca_file": town.ca_file,
                "grant_key_file": party.public / "grant.der",
            },
            repeated=True,
        )
        + table(
            "devices",
            {
                "id": PARKING,
                "kind": "parking",
                "party": town.parties.devices[PARKING].folder,
                "gateways": [GATEWAY],
                "transport": "mqtt",
                "report_interval_s": 60,
                "tariffs": [{"id": "park", "version": 1}],
                "tokens": [CARD],
                "register": {
                    "id": "1",
                    "epoch": 1,
                    "unit": "s",
                    "modulus": 2**32,
                    "rated_per_hour": 3_600,
                    "starts_at": 1_000,
                },
            },
            repeated=True,
        )
        + table(f"devices.mqtt.{GATEWAY}", {"certificate_file": key["certificate_file"], "key_file": key["key_file"]})
    )
    done = call("farthing-firmware-sim", "attack", "--config", config, "--device", PARKING, "--gateway", GATEWAY)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads(done.stdout)
    assert all(row["right"] for row in seen)
    assert money(town) == before
    counted = refused(town)
    assert all(counted[str(row["refusal"])] >= 1 for row in seen if row["refusal"] is not None)


def test_the_same_bytes_again_get_the_first_answer(town: Town) -> None:
    toll = town.speaker(TOLL)
    intent, salt = toll.intent()
    envelope = toll.envelope(intent, salt)
    first = toll.say(envelope)
    assert first.status is AnswerStatus.GRANTED
    toll.register += 1
    after = money(town)
    again = toll.say(envelope)
    assert (again.status, granted(again)) == (first.status, granted(first))
    # The same content under another signature is the same statement.
    resigned = toll.say(toll.envelope(intent, salt))
    assert (resigned.status, granted(resigned)) == (first.status, granted(first))
    other = toll.say(toll.envelope(replace(intent, at=Instant(intent.at + 1)), salt))
    assert other.refusal is Refusal.COUNTER_REUSED
    assert money(town) == after


def test_what_nobody_signed_changes_nothing_and_is_counted(town: Town) -> None:
    toll = town.speaker(TOLL)
    town.assert_books_agree()
    before, counted, entries = money(town), refused(town), town.status()["position"]
    for said, number in (
        (secrets.token_bytes(200), Refusal.MALFORMED),
        (b"", Refusal.MALFORMED),
        (b"\x9f" * 300, Refusal.MALFORMED),
        (b"\x81" * 4_000, Refusal.MALFORMED),
    ):
        answer = toll.say(said)
        assert (answer.refusal, answer.answers) == (number, None)
    intent, salt = toll.intent()
    good = toll.sign(intent)
    toll.counter -= 1
    for index in (-1, 2, len(good) // 2):
        bad = bytearray(good)
        bad[index] ^= 1
        answer = toll.say(encode(Envelope(statement=bytes(bad), token=CARD.encode(), salt=salt)))
        assert answer.refusal in (Refusal.SIGNATURE_INVALID, Refusal.MALFORMED)
    answer = toll.say(encode(Envelope(statement=good)))
    assert answer.refusal is Refusal.COMMITMENT_DIFFERS
    assert money(town) == before
    assert town.status()["position"] == entries
    assert sum(refused(town).values()) == sum(counted.values()) + 8


def test_a_device_that_nobody_registered_is_unknown(town: Town) -> None:
    before = money(town)
    answer = town.speaker(STRANGER).ask()
    assert answer.refusal is Refusal.DEVICE_UNKNOWN
    assert money(town) == before


def test_a_device_does_not_speak_for_another(town: Town) -> None:
    toll = town.speaker(TOLL)
    spare = town.speaker(SPARE)
    stolen = spare.envelope(*spare.intent())
    assert toll.say(stolen).refusal is Refusal.CHANNEL_DIFFERS


def test_the_life_of_a_device_acts_at_once(town: Town) -> None:
    suspect = town.speaker(SUSPECT)
    assert suspect.pass_once().status is AnswerStatus.GRANTED
    for act, number in (
        ("suspend", Refusal.DEVICE_SUSPENDED),
        ("resume", None),
        ("block", Refusal.DEVICE_BLOCKED),
        ("decommission", Refusal.DEVICE_DECOMMISSIONED),
    ):
        version = town.status()["directives"]["version"]
        town.admin("devices", act, SUSPECT, "--reason", "looked odd")
        town.until(lambda v=version: town.status()["directives"]["version"] > v, f"the gateway to hear of {act}")
        before = money(town)
        assert suspect.pass_once().refusal is number
        if number is not None:
            assert money(town) == before
    assert town.try_admin("devices", "resume", SUSPECT, "--reason", "please").returncode == 1


#: What one device may do in a day, where its place is, and a token whose first use is one too many.
POLICIES: list[tuple[dict[str, Any], Refusal]] = [
    ({"usage_limits": {"device_day_count": 1}}, Refusal.LIMIT_PER_DAY),
    (
        {"place": {"centre": {"latitude": "52.520008", "longitude": "13.404954"}, "fence_radius_m": 500}},
        Refusal.OUTSIDE_FENCE,
    ),
    (
        {"scorecard": {"version": 1, "new_token_points": 1, "tiers": [{"start": 1, "action": "refuse"}]}},
        Refusal.RISK_TOO_HIGH,
    ),
]


def test_a_site_s_policies_go_from_the_operator_s_file_to_the_gateway_s_answer(town: Town) -> None:
    toll = town.speaker(TOLL)
    for policy, refusal in POLICIES:
        # Each takes the place of the one before.
        apply_site(town, policy)
        answers = [toll.pass_once() for _ in range(2)]
        assert answers[1].refusal is refusal, policy
        if refusal is Refusal.LIMIT_PER_DAY:
            assert answers[0].status is AnswerStatus.GRANTED
    # A site put by hand keeps the policies that its options do not name.
    put = ("sites", "put", "S1", "--time-zone", "Europe/Berlin", "--seal-records", 11, "--seal-age", 1)
    changed = town.admin(*put, "--operator", OPERATOR, "--seal-amount", "5.00")
    assert changed["differences"] == ["seal.records: 10 -> 11"]
    assert toll.pass_once().refusal is POLICIES[-1][1]
    apply_site(town, {})
    # Each part of a site is a directive of its own: the last may come a moment later.
    town.until(lambda: toll.pass_once().status is AnswerStatus.GRANTED, "the last policy to be withdrawn")


def apply_site(town: Town, policy: dict[str, Any]) -> None:
    """Put the town's site with ``policy``, and wait until the gateway knows."""
    before = town.status()["directives"]["version"]
    site = {
        "id": "S1",
        "operator": OPERATOR,
        "time_zone": "Europe/Berlin",
        "seal": {"amount": "5.00", "records": 10, "age_s": 1},
        **policy,
    }
    file = town.folder / "site.toml"
    file.write_text(table("sites", site, repeated=True))
    (changed,) = town.admin("apply", file)
    assert changed["change"] == "updated"
    town.until(lambda: town.status()["directives"]["version"] > before, "the site's policy at the gateway")


def test_the_broker_keeps_devices_apart(town: Town) -> None:
    victim, eve = town.speaker(TOLL), town.client(SPARE)
    for topic in ("#", f"farthing/{TOLL}/down", f"farthing/{TOLL}/up", "farthing/+/up", "$SYS/#"):
        eve.subscribe(topic)
    heard, counted = len(victim.client.came), refused(town)
    eve.publish(f"farthing/{TOLL}/up", b"as another")
    eve.publish(f"farthing/{TOLL}/down", b"as the gateway")
    assert victim.pass_once().status is AnswerStatus.GRANTED
    assert len(victim.client.came) == heard + 1
    assert refused(town) == counted
    assert all(topic == f"farthing/{SPARE}/down" for topic, _ in eve.came)


HELLO = gateway_sync_pb2.HelloRequest(start_id=b"s" * 16)


def code(called: Any, request: Any) -> grpc.StatusCode:
    """How a call ends; of a stream, its first answer or its end."""
    try:
        answer = called(request, timeout=CALL_TIMEOUT_S)
        if isinstance(answer, grpc.Call):
            next(iter(answer))
    except grpc.RpcError as err:
        found: grpc.StatusCode = err.code()
        return found
    return grpc.StatusCode.OK


def test_a_gateway_may_not_enter_the_back_office_nor_a_person_the_door(town: Town) -> None:
    gateway, clerk = town.parties.gateways[GATEWAY].folder, town.parties.people[CLERK].folder
    fund = ledger_pb2.FundAccountRequest(operator_id=OPERATOR, account_id="acme", amount_micros=1, payment_id="x")
    for address, expected in (
        (town.addresses["back_office"], grpc.StatusCode.PERMISSION_DENIED),
        (town.addresses["door"], grpc.StatusCode.UNIMPLEMENTED),
    ):
        with town.channel(gateway, address) as channel:
            assert code(ledger_pb2_grpc.LedgerStub(channel).FundAccount, fund) is expected
            list_devices = registry_pb2_grpc.RegistryStub(channel).ListDevices
            assert code(list_devices, registry_pb2.ListDevicesRequest()) is expected
    with town.channel(clerk, town.addresses["door"]) as channel:
        door = gateway_sync_pb2_grpc.GatewaySyncStub(channel)
        for called, request in (
            (door.Hello, HELLO),
            (door.FollowDirectives, gateway_sync_pb2.FollowDirectivesRequest()),
            (door.PushBatches, iter([batch_pb2.SignedBatch()])),
            (door.UploadEvidence, iter([gateway_sync_pb2.UploadEvidenceRequest()])),
            (door.RequestQuota, gateway_sync_pb2.RequestQuotaRequest()),
        ):
            assert code(called, request) is grpc.StatusCode.PERMISSION_DENIED


def foreign_certificate(uri: str) -> tuple[bytes, bytes]:
    """A key and a certificate, PEM, that says ``uri`` and that nobody of ours issued."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "farthing-ca")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return (
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        certificate.public_bytes(Encoding.PEM),
    )


def test_nobody_in_without_a_certificate_of_ours(town: Town) -> None:
    roots = town.parties.ca.certificate("ca")
    foreign = foreign_certificate(f"spiffe://farthing/gateway/{GATEWAY}")
    logged = len(town.cloud.log.read_bytes())
    for name in ("door", "back_office"):
        address = town.addresses[name]
        for channel in (
            grpc.secure_channel(address, grpc.ssl_channel_credentials(roots)),
            grpc.secure_channel(address, grpc.ssl_channel_credentials(roots, *foreign)),
            grpc.insecure_channel(address),
        ):
            with channel:
                assert code(gateway_sync_pb2_grpc.GatewaySyncStub(channel).Hello, HELLO) is grpc.StatusCode.UNAVAILABLE
    # Whoever knocks writes nothing into our log.
    assert b"ssl_transport_security" not in town.cloud.log.read_bytes()[logged:]


def last_batch(town: Town) -> batch_pb2.Batch:
    """The last batch that the gateway sealed, as its journal has it."""
    with closing(connect_to_read(town.folder / GATEWAY / "journal.sqlite")) as journal:
        (kind, body) = journal.execute(
            "SELECT kind, body FROM entries JOIN batches USING (position) ORDER BY position DESC"
        ).fetchone()
    sealed = decode(kind, body)
    assert isinstance(sealed, Sealed)
    return batch_pb2.Batch.FromString(sealed.batch)


def test_a_batch_that_is_none_is_refused_and_changes_nothing(town: Town) -> None:
    toll = town.speaker(TOLL)
    assert toll.pass_once().status is AnswerStatus.GRANTED
    billed = town.assert_books_agree()
    last = last_batch(town)
    books = town.admin("batches", "list", "--operator", OPERATOR)
    gateway = town.parties.gateways[GATEWAY]
    token, kid = town.token(gateway.folder), cose.key_id(gateway.public_key("batch"))

    def signed(batch: bytes, *, label: str = "batch", kind: cose.Kind = "batch") -> batch_pb2.SignedBatch:
        signature = token.sign_blocking(label, cose.to_be_signed(kind, BATCH_RECIPIENT, batch))
        return batch_pb2.SignedBatch(batch=batch, signature=signature, key_id=kid)

    def other(**changes: Any) -> bytes:
        changed = batch_pb2.Batch()
        changed.CopyFrom(last)
        for name, value in changes.items():
            setattr(changed, name, value)
        return changed.SerializeToString()

    fork = other(sealed_at_us=last.sealed_at_us + 1)
    forged = signed(fork)
    forged.signature = bytes(64)
    malformed, misplaced = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION
    with town.channel(gateway.folder, town.addresses["door"]) as channel:
        door = gateway_sync_pb2_grpc.GatewaySyncStub(channel)
        for batch, expected in (
            (batch_pb2.SignedBatch(), malformed),
            (forged, malformed),
            (signed(fork, label="grant"), malformed),
            (signed(fork, kind="receipt"), malformed),
            (signed(secrets.token_bytes(300)), malformed),
            (signed(b""), malformed),
            (signed(other(sequence=0)), malformed),
            (signed(other(sequence=2**64 - 1)), malformed),
            (signed(other(previous_hash=b"short")), malformed),
            (signed(other(gateway_id="gw-2")), grpc.StatusCode.PERMISSION_DENIED),
            (signed(other(operator_id="town")), grpc.StatusCode.PERMISSION_DENIED),
            (signed(other(incarnation=99)), misplaced),
            (signed(other(sequence=last.sequence + 2)), grpc.StatusCode.OUT_OF_RANGE),
        ):
            assert code(door.PushBatches, iter([batch])) is expected
        for after in (10**6, 2**64 - 1):
            request = gateway_sync_pb2.FollowDirectivesRequest(after_version=after)
            assert code(door.FollowDirectives, request) is misplaced
        assert code(door.Hello, gateway_sync_pb2.HelloRequest(start_id=b"short")) is malformed
        wish: dict[str, Any] = {
            "incarnation": 1, "counter": 10**9, "account_id": "acme", "currency": "EUR", "wanted_micros": 1
        }  # fmt: skip
        for name, value in (
            ("currency", "USD"), ("wanted_micros", 0), ("wanted_micros", 2**62), ("account_id", "no one"), ("counter", 0)
        ):  # fmt: skip
            wrong = gateway_sync_pb2.RequestQuotaRequest(**{**wish, name: value})
            assert code(door.RequestQuota, wrong) is malformed
    assert town.admin("batches", "list", "--operator", OPERATOR) == books
    assert toll.pass_once().status is AnswerStatus.GRANTED
    assert town.assert_books_agree() == billed + FARE_MICROS


# The last of this town: from here on its gateway authorizes nothing.
def test_two_batches_with_one_number_stop_authorizing_and_nothing_else(town: Town) -> None:
    toll = town.speaker(TOLL)
    assert toll.pass_once().status is AnswerStatus.GRANTED
    billed = town.assert_books_agree()
    fork = last_batch(town)
    fork.sealed_at_us += 1
    books = town.admin("batches", "list", "--operator", OPERATOR)
    gateway = town.parties.gateways[GATEWAY]
    content = fork.SerializeToString()
    batch = batch_pb2.SignedBatch(
        batch=content,
        signature=town.token(gateway.folder).sign_blocking(
            "batch", cose.to_be_signed("batch", BATCH_RECIPIENT, content)
        ),
        key_id=cose.key_id(gateway.public_key("batch")),
    )
    with town.channel(gateway.folder, town.addresses["door"]) as channel:
        door = gateway_sync_pb2_grpc.GatewaySyncStub(channel)
        assert code(door.PushBatches, iter([batch])) is grpc.StatusCode.ALREADY_EXISTS
    (case,) = town.admin("gateways", "cases", "--open", "--operator", OPERATOR)
    assert (case["gateway_id"], case["kind"]) == (GATEWAY, "equivocation")
    town.until(lambda: toll.ask().refusal is Refusal.NOT_AUTHORIZING, "the gateway to hear of it")
    assert town.admin("batches", "list", "--operator", OPERATOR)[-len(books) :] == books
    assert town.assert_books_agree() >= billed
