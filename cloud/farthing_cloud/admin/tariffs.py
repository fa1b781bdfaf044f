"""``farthing-admin tariffs``: versions of prices, and what a session costs under one before anybody pays it.

Rule 1: ``price`` asks no server: it is the function that gateways and verifiers price with, over a session told in words.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from farthing.configuration import ConfigError
from farthing.money import format_micros, rate_name
from farthing.tariff import Tariff as ParsedTariff
from farthing.tariff import TariffError, parse
from farthing.tariff.decimals import decimal_text
from farthing.tariff.session import Line, PricedSession, SessionError, parse_session, price_session
from farthing.v1 import registry_pb2, registry_pb2_grpc
from farthing_cloud.admin.apply import put_tariff
from farthing_cloud.admin.city_rates import CITIES, RatesError, read_rows
from farthing_cloud.admin.document import Tariff
from farthing_cloud.admin.registry import AnyOperator
from farthing_cloud.admin.session import (
    CALL_TIMEOUT_S,
    DryRun,
    Json,
    Operator,
    Row,
    back_office,
    fail,
    print_json,
    show,
    show_one,
)

tariffs = typer.Typer(help="Prices, version by version.", no_args_is_help=True)

ExactJson = Annotated[bool, typer.Option("--json", help="One JSON document; amounts as exact decimals.")]


@tariffs.command("list")
def list_tariffs(ctx: typer.Context, operator: AnyOperator = "", as_json: Json = False) -> None:
    """Every version; as JSON with the OCPI object."""
    with back_office(ctx) as channel:
        answer = registry_pb2_grpc.RegistryStub(channel).ListTariffs(
            registry_pb2.ListTariffsRequest(operator_id=operator), timeout=CALL_TIMEOUT_S
        )
    rows: list[Row] = [
        {
            "tariff_id": each.tariff.tariff_id,
            "version": each.tariff.version,
            "operator_id": each.operator_id,
            "currency": each.tariff.currency,
            "ocpi_json": each.tariff.ocpi_json.decode("utf-8", "replace"),
        }
        for each in answer.tariffs
    ]
    show(rows, ("tariff_id", "version", "operator_id", "currency"), as_json=as_json)


@tariffs.command("put")
def put_one_tariff(
    ctx: typer.Context,
    operator: Operator,
    tariff_id: Annotated[str, typer.Argument()],
    version: Annotated[int, typer.Option(min=1, help="Counts from 1; a version never changes.")],
    currency: Annotated[str, typer.Option(help="ISO 4217, for example EUR.")],
    file: Annotated[Path, typer.Option(help="An OCPI 2.2.1 tariff object, JSON.")],
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Register a version of a tariff."""
    tariff = Tariff(id=tariff_id, operator=operator, version=version, currency=currency, file=str(file))
    try:
        message = tariff.message(Path.cwd())
    except ConfigError as err:
        fail(str(err))
    with back_office(ctx) as channel:
        step = put_tariff(message)
        change, differences = step.run(channel, dry_run)
    show_one({"kind": step.kind, "id": step.id, "change": change, "differences": differences}, as_json=as_json)


# Prices without a server ----------------------------------------------------------------------------------------------


@tariffs.command("price")
def price_one_session(
    tariff_file: Annotated[Path, typer.Argument(metavar="TARIFF.json", help="An OCPI 2.2.1 tariff object.")],
    session_file: Annotated[
        Path, typer.Argument(metavar="SESSION.json", help="time_zone, start_local and periods of a session.")
    ],
    as_json: ExactJson = False,
) -> None:
    """What a session costs under a tariff; no server is asked."""
    tariff = _parsed(tariff_file)
    try:
        priced = price_session(tariff, parse_session(_read(session_file), tariff))
    except (SessionError, TariffError) as err:
        fail(f"{session_file}: {err}")
    if as_json:
        print_json(_document(priced))
    else:
        _show_session(priced)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as err:
        fail(f"{file}: {err.strerror}")


def _parsed(file: Path) -> ParsedTariff:
    try:
        return parse(_read(file))
    except TariffError as err:
        fail(f"{file}: {err}")


def _document(priced: PricedSession) -> dict[str, Any]:
    return {
        "tariff": priced.tariff.id,
        "currency": priced.tariff.currency,
        "tax_included": priced.tariff.tax_included,
        "time_zone": priced.session.time_zone.key,
        "time_zone_data": priced.time_zone_data,
        "start": priced.start_local.isoformat(),
        "end": priced.end_local.isoformat(),
        "total_excl_vat": format_micros(priced.priced.net_micros),
        "total_incl_vat": format_micros(priced.priced.gross_micros),
        "vat": [
            {
                "rate": rate_name(part.rate_ppm),
                "excl_vat": format_micros(part.net_micros),
                "vat": format_micros(part.tax_micros),
            }
            for part in priced.priced.parts
        ],
        "lines": [_line(line) for line in priced.lines],
    }


def _line(line: Line) -> dict[str, Any]:
    return {
        "for": line.what,
        "element": line.element or None,
        "type": line.dimension or None,
        "from": None if line.start is None else line.start.isoformat(),
        "to": None if line.end is None else line.end.isoformat(),
        "quantity": decimal_text(line.quantity),
        "unit": line.unit or None,
        "price": decimal_text(line.price),
        "vat_rate": rate_name(line.rate_ppm),
        "amount": format_micros(line.amount_micros),
    }


def _show_session(priced: PricedSession) -> None:
    rows: list[Row] = [_printed(_line(line)) for line in priced.lines]
    show(
        rows, ("for", "element", "type", "from", "to", "quantity", "unit", "price", "vat_rate", "amount"), as_json=False
    )
    totals: dict[str, str] = {}
    for part in priced.priced.parts:
        name = rate_name(part.rate_ppm)
        totals[f"at {name} %"] = f"{format_micros(part.net_micros)} + {format_micros(part.tax_micros)}"
    totals["total excl vat"] = f"{format_micros(priced.priced.net_micros)} {priced.tariff.currency}"
    totals["total incl vat"] = f"{format_micros(priced.priced.gross_micros)} {priced.tariff.currency}"
    totals["time zone"] = f"{priced.session.time_zone.key}, data {priced.time_zone_data}"
    show_one(totals, as_json=False)


def _printed(line: dict[str, Any]) -> Row:
    return {name: "-" if value is None else str(value) for name, value in line.items()}


# Published rates ------------------------------------------------------------------------------------------------------


@tariffs.command("convert")
def convert_rates(
    city: Annotated[str, typer.Argument(help=f"Whose file it is: {' or '.join(CITIES)}.")],
    file: Annotated[Path, typer.Argument(help="The published CSV file, gzipped or not.")],
    out: Annotated[
        Path | None, typer.Option(help="A folder for the tariff objects, one file for each version.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make tariff objects of published parking rates, and say of every row that cannot become one why."""
    if city not in CITIES:
        fail(f"{city}: rates are read of {' and '.join(CITIES)}")
    try:
        conversion = CITIES[city](read_rows(file))
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            for tariff in conversion.tariffs:
                (out / f"{tariff.tariff_id}-v{tariff.version}.json").write_bytes(tariff.ocpi_json)
    except RatesError as err:
        fail(str(err))
    except OSError as err:
        fail(f"{err.filename}: {err.strerror}")
    rows: list[Row] = [
        {"rows": sum(each.rows for each in conversion.tariffs), "became": f"{len(conversion.tariffs)} tariff versions"}
    ]
    rows += [{"rows": count, "became": f"refused: {why}"} for why, count in sorted(conversion.refused.items())]
    show(rows, ("rows", "became"), as_json=as_json)
