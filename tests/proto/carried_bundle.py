"""A bundle of a use whose last word another gateway carried: the session of ``carried_session``, in a batch that the carrier signed."""

from collections.abc import Sequence
from typing import Any

from carried_session import AUTHORIZATION, DEVICE, END, GRANTER, INTENT, OCPI, said
from evidence_bundles import BATCH, RECEIPT, certificate, der, receipted, sealed, spki

from farthing.device import messages as m
from farthing.evidence.bundle import Billed, Bundle, BundledBatch, CarriedWord, NamedRegister, NamedTariff
from farthing.ids import AuthorizationId, DeviceId, GatewayId, OperatorId, RegisterId
from farthing.v1 import batch_pb2


def carried_batch(*ends: batch_pb2.CarriedEnd, **changes: Any) -> BundledBatch:
    """A batch of G2's that carries these; without any, the session's end. Signed and receipted."""
    if not ends:
        statements, grant = said(INTENT, END)
        ends = (batch_pb2.CarriedEnd(granted_by="G1", granted_incarnation=3, statements=statements, grant=grant),)
    fields = {
        "operator_id": "op",
        "gateway_id": "G2",
        "incarnation": 1,
        "sequence": 4,
        "merkle_root": bytes(32),
        "carried": ends,
        **changes,
    }
    batch = batch_pb2.Batch(**fields)
    body = batch.SerializeToString(deterministic=True)
    return BundledBatch(batch=sealed(BATCH, "batch", "cloud", body), receipt=receipted(batch, body), leaves=())


def device_certificate() -> bytes:
    """The CA says whose the session's key is."""
    return der(certificate("dev", DEVICE._key))


def carried_bundle(
    batch: BundledBatch | None = None,
    *,
    authorization: bytes = AUTHORIZATION,
    final: bool = True,
    standing: Sequence[str] = (),
) -> Bundle:
    """Everything of the session: 4 kWh, 0.50 and 1.00, a fifth of tax."""
    return Bundle(
        operator=OperatorId("op"),
        gateway=GatewayId("G1"),
        authorization=AuthorizationId(authorization),
        billed=Billed(
            device=DeviceId("dev"),
            register_id=RegisterId("c1"),
            register_epoch=0,
            register_from=1000,
            register_to=5000,
            net_micros=1_500_000,
            tax_micros=300_000,
            final=final,
            aside=False,
        ),
        time_zone="Europe/Berlin",
        gateway_key=spki(BATCH),
        receipt_keys=(spki(RECEIPT),),
        tariffs=(NamedTariff(tariff_id="chg-3", version=1, ocpi_json=OCPI.decode()),),
        registers=(
            NamedRegister(
                device=DeviceId("dev"), register_id=RegisterId("c1"), register_epoch=0, unit="Wh", modulus=1_000_000
            ),
        ),
        certificates=(device_certificate(),),
        batches=(),
        carried=CarriedWord(
            carrier=GatewayId("G2"),
            grant_key=GRANTER.spki,
            standing_tariffs=tuple(standing),
            batch=carried_batch() if batch is None else batch,
        ),
    )


BEGAN = m.Reading(
    recipient=GatewayId("G1"),
    device="dev",
    device_epoch=0,
    counter=2,
    at=INTENT.at,
    register=INTENT.register,
    tariff=END.tariff,
)
STANDS = m.Reading(
    recipient=GatewayId("G1"),
    device="dev",
    device_epoch=0,
    counter=8,
    at=END.at,
    register=END.register,
    tariff=END.tariff,
)
