"""OCPI JSON in, compiled tariffs out."""

from farthing.tariff.tariff import Tariff, TariffError


def parse(ocpi_json: bytes) -> Tariff:
    """Compile an OCPI 2.2.1 tariff object; raise ``TariffError`` naming what cannot be priced."""
    raise TariffError("not written yet")
