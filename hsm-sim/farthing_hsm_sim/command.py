"""``farthing-hsm-sim``: hold a key ceremony, look into tokens, clone an element, destroy what was made."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from farthing.hsm import HsmError, load_party
from farthing_hsm_sim.ceremony import destroy_below, hold
from farthing_hsm_sim.inventory import clone as clone_element
from farthing_hsm_sim.inventory import list_keys
from farthing_hsm_sim.plan import Plan, read_plan
from farthing_hsm_sim.softhsm import destroy_orphans

app = typer.Typer(
    help="Simulated tokens, key ceremonies and certificates.", no_args_is_help=True, pretty_exceptions_enable=False
)


class _Refused(typer.Exit):
    """Printed already; exit code 1."""

    def __init__(self, text: object) -> None:
        typer.echo(f"farthing-hsm-sim: {text}", err=True)
        super().__init__(code=1)


@app.command()
def ceremony(
    out: Annotated[Path, typer.Option(help="Folder of the parties' folders.")],
    plan: Annotated[Path | None, typer.Option(help="TOML: gateways, devices, people (lists), shared_tokens.")] = None,
    gateway: Annotated[list[str] | None, typer.Option(help="A gateway's id; may be repeated.")] = None,
    device: Annotated[list[str] | None, typer.Option(help="A device's id; may be repeated.")] = None,
    person: Annotated[list[str] | None, typer.Option(help="A person's id; may be repeated.")] = None,
    shared_tokens: Annotated[bool, typer.Option(help="All tokens in one SoftHSM directory.")] = False,
    module: Annotated[Path | None, typer.Option(help="SoftHSM's module, where it is not at its usual place.")] = None,
) -> None:
    """Make the CA, the cloud and everybody named; who is there already stays as it is."""
    try:
        told = read_plan(plan) if plan else Plan()
        whole = Plan(
            gateways=(*told.gateways, *(gateway or ())),
            devices=(*told.devices, *(device or ())),
            people=(*told.people, *(person or ())),
            shared_tokens=told.shared_tokens or shared_tokens,
        )
        made = hold(whole, out, module=module)
    except (HsmError, ValidationError) as err:
        raise _Refused(err) from err
    typer.echo(
        f"{out}: ca, cloud, {len(made.gateways)} gateways, {len(made.devices)} devices, {len(made.people)} people; "
        f"tokens under {made.ca.softhsm_conf.parent.joinpath('tokens').resolve().parent}"
    )


@app.command()
def show(
    party: Annotated[Path, typer.Argument(help="A party's folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """List the keys in a party's token and what their attributes say."""
    try:
        keys = list_keys(load_party(party))
    except HsmError as err:
        raise _Refused(err) from err
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in keys], indent=2))
        return
    for each in keys:
        typer.echo(
            f"{each.label:<12} {each.kind:<20} {','.join(each.purposes):<8} "
            f"{'sensitive' if each.sensitive else 'READABLE':<10} "
            f"{'extractable' if each.extractable else 'not extractable':<16} "
            f"{'born inside' if each.born_inside else 'brought in'}"
        )


@app.command()
def clone(
    device: Annotated[Path, typer.Option(help="The device's folder.")],
    out: Annotated[Path, typer.Option(help="A new folder for the copy.")],
) -> None:
    """Copy a device's element into a SoftHSM directory of its own, as a thief would."""
    try:
        party = clone_element(device, out)
    except HsmError as err:
        raise _Refused(err) from err
    typer.echo(f"{out}: a copy of {party.id}'s element")


@app.command()
def destroy(
    folder: Annotated[Path | None, typer.Argument(help="A ceremony's folder, or a party's.")] = None,
    orphans: Annotated[bool, typer.Option(help="Also tokens on tmpfs whose folder was deleted or moved.")] = False,
) -> None:
    """Delete all tokens, PINs and raw keys below a folder; certificates and public keys stay."""
    if folder is None and not orphans:
        raise _Refused("name a folder, or --orphans")
    if folder is not None:
        if not folder.is_dir():
            raise _Refused(f"no folder {folder}")
        typer.echo(f"{folder}: {destroy_below(folder)} token directories destroyed")
    if orphans:
        typer.echo(f"{destroy_orphans()} token directories without a folder destroyed")


if __name__ == "__main__":
    app()
