"""``farthing-witness``: watch a public log from its public key alone, and cosign what only grew.

Exit 0: the log only grew. 1: nothing was learned (unreachable, broken files, wrong use). 2: the log contradicts itself, or went back.
"""

import base64
import os
import time
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from farthing.tlog.checkpoint import Checkpoint, open_checkpoint
from farthing.tlog.keeping import write_durably
from farthing.tlog.note import MAX_NOTE_SIZE, NoteError, NoteKey, SignatureType, cosignature, cosigned_message
from farthing.tlog.places import PlaceError, fetch_from
from farthing.tlog.telling import tell
from farthing.tlog.tiles import CHECKPOINT, TileError, TileReader
from farthing.tlog.witness import Judgement, Outcome, judge

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

#: The log was caught, by two notes that it signed.
CAUGHT = 2

LogKey = Annotated[
    str,
    typer.Option(
        "--log", help="The log's verifier key, name+id+key, as you have it from elsewhere.", show_default=False
    ),
]
Place = Annotated[str, typer.Option("--from", help="The log's URL, or a folder with its files.", show_default=False)]


@app.callback()
def farthing_witness() -> None:
    """Watch a public log from its public key alone."""


@app.command("key")
def make_key(
    name: Annotated[str, typer.Option("--name", help="Your witness's name, such as example.org/witness.")],
    out: Annotated[Path, typer.Option("--out", help="A new file for the private key.", show_default=False)],
) -> None:
    """Make a witness's key; print the verifier key that others need."""
    private = Ed25519PrivateKey.generate()
    try:
        shown = _witness_key(name, private)
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except (NoteError, OSError) as err:
        _fail(f"{out}: {err}")
    with os.fdopen(descriptor, "wb") as file:
        file.write(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        file.flush()
        os.fsync(file.fileno())
    typer.echo(str(shown))


@app.command("look")
def look(
    log: LogKey,
    place: Place,
    state: Annotated[
        Path, typer.Option("--state", help="The last checkpoint seen; made at the first look.", show_default=False)
    ],
    key: Annotated[Path | None, typer.Option("--key", help="Your key, to cosign.")] = None,
    name: Annotated[str, typer.Option("--name", help="Your witness's name.")] = "",
    out: Annotated[
        Path | None, typer.Option("--out", help="Where the cosigned checkpoint goes; else it is printed.")
    ] = None,
    entries: Annotated[
        bool, typer.Option("--entries", help="List the entries that are new since the last look.")
    ] = False,
) -> None:
    """Compare the log with what was seen last; cosign it if it only grew."""
    if (key is None) == bool(name):
        _fail("--key and --name go together")
    try:
        log_key = NoteKey.parse(log)
        signing = None if key is None else _read_key(key)
        fetch = fetch_from(place)
        seen = state.read_bytes() if state.exists() else None
        last = None if seen is None else open_checkpoint(seen, log_key)[0]
        new, note = open_checkpoint(fetch(CHECKPOINT, MAX_NOTE_SIZE), log_key)
        judgement, reader = judge(last, new, fetch)
        # What is new is read before it counts as seen: else what cannot be shown now is never shown.
        listed = [] if reader is None or not entries else _new_entries(reader, last)
    except NoteError as err:
        _fail(f"{place}: {err}")
    except (PlaceError, TileError) as err:
        _fail(f"nothing learned: {err}")
    except OSError as err:
        _fail(f"{err.filename}: {err.strerror}")
    if not judgement.fit:
        assert seen is not None
        _shout(log_key, judgement, seen, note.encode(), state)
    for line in listed:
        typer.echo(line)
    # Seen before said: what was cosigned is never forgotten.
    write_durably(state, note.encode())
    if signing is not None:
        own, time_s = _witness_key(name, signing), int(time.time())
        signature = signing.sign(cosigned_message(note.text, time_s=time_s))
        note = note.signed_with(cosignature(own, signature, time_s=time_s))
        if out is None:
            typer.echo(note.encode().decode(), nl=False)
        else:
            write_durably(out, note.encode())
    typer.echo(f"{log_key.name}: {judgement.outcome}, {judgement.why}", err=True)


@app.command("mirror")
def mirror(
    log: LogKey,
    place: Place,
    to: Annotated[Path, typer.Option("--to", help="A folder for the copy.", show_default=False)],
) -> None:
    """Copy a log's files, checked against its signed checkpoint; a copy that is there only grows."""
    try:
        log_key = NoteKey.parse(log)
        fetch = fetch_from(place)
        held = to / CHECKPOINT
        seen = held.read_bytes() if held.exists() else None
        last = None if seen is None else open_checkpoint(seen, log_key)[0]
        new, note = open_checkpoint(fetch(CHECKPOINT, MAX_NOTE_SIZE), log_key)
        judgement, reader = judge(last, new, fetch)
        if reader is not None and judgement.fit:
            _copy(reader, 0 if last is None else last.size, to)
    except NoteError as err:
        _fail(f"{place}: {err}")
    except (PlaceError, TileError) as err:
        _fail(f"nothing learned: {err}")
    except OSError as err:
        _fail(f"{err.filename}: {err.strerror}")
    if not judgement.fit:
        assert seen is not None
        _shout(log_key, judgement, seen, note.encode(), held)
    write_durably(held, note.encode())
    typer.echo(f"{log_key.name}: {judgement.outcome}, {judgement.why}", err=True)


def _new_entries(reader: TileReader, last: Checkpoint | None) -> list[str]:
    start = 0 if last is None else last.size
    return [tell(index, data) for index, data in enumerate(reader.entries(start, reader.size), start)]


def _copy(reader: TileReader, start: int, folder: Path) -> None:
    for path, content in reader.files(start):
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        write_durably(file, content)


def _shout(key: NoteKey, judgement: Judgement, seen: bytes, new: bytes, state: Path) -> NoReturn:
    """Keep both notes for everybody to check, say so, and leave with ``CAUGHT``; the state stays as it was."""
    number = 1
    while (kept := state.with_name(f"{state.name}.evidence-{number}")).exists():
        number += 1
    proof = "".join(f"{base64.b64encode(step).decode()}\n" for step in judgement.proof)
    what = (
        f"{key.name}: {judgement.outcome}: {judgement.why}\nverifier key: {key}\n\n"
        f"== seen before ==\n{seen.decode()}\n== shown now ==\n{new.decode()}"
        + (
            f"\n== the way from the leaves before to the root now (RFC 9162, section 2.1.4) ==\n{proof}"
            if proof
            else ""
        )
    )
    write_durably(kept, what.encode())
    verdict = "HAS FORKED" if judgement.outcome is Outcome.FORKED else "WENT BACK"
    typer.echo(
        f"{key.name} {verdict}: {judgement.why}. Both signed notes are kept in {kept}. Nothing was cosigned.", err=True
    )
    raise typer.Exit(CAUGHT)


def _witness_key(name: str, private: Ed25519PrivateKey) -> NoteKey:
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return NoteKey(name=name, kind=SignatureType.COSIGNATURE, public=public)


def _read_key(file: Path) -> Ed25519PrivateKey:
    try:
        found = load_pem_private_key(file.read_bytes(), password=None)
    except (ValueError, TypeError) as err:
        raise NoteError(f"{file} holds no private key in PEM") from err
    if not isinstance(found, Ed25519PrivateKey):
        raise NoteError(f"{file} holds no Ed25519 key")
    return found


def _fail(sentence: str) -> NoReturn:
    typer.echo(sentence, err=True)
    raise typer.Exit(1)
