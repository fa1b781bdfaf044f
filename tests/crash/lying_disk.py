"""A folder whose disk fails, is full or loses power (``disk_that_lies.c``), and what a power loss leaves of it."""

import random
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct
from typing import NamedTuple

SOURCE = Path(__file__).with_name("disk_that_lies.c")
#: What a disk writes at once: of a page that was under way some sectors are new and some are old.
SECTOR = 512
_HEAD = Struct("=cIQq")


def compile_library(folder: Path) -> Path:
    """The library, built with the machine's C compiler."""
    library = folder / "disk_that_lies.so"
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl", "-lpthread"], check=True)
    return library


class LyingDisk:
    """One folder, for programs that are started with ``environment``."""

    def __init__(self, folder: Path, library: Path) -> None:
        self.folder = folder
        self.environment = {"LD_PRELOAD": str(library)}
        folder.mkdir(exist_ok=True)

    def say(self, *words: str) -> None:
        """What happens from now on; nothing said: an honest disk."""
        scratch = self.folder / ".disk.new"
        scratch.write_text("".join(f"{word}\n" for word in words))
        scratch.replace(self.folder / ".disk")

    def begin_anew(self) -> None:
        """An empty one."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()

    def size(self) -> int:
        """Bytes in all of its files, as the library counts them."""
        return sum(each.stat().st_size for each in self.folder.iterdir() if each.is_file() and each.name[0] != ".")

    def stream(self) -> "list[Op]":
        """What was done to it, in order."""
        return list(_read((self.folder / ".stream").read_bytes()))


class Op(NamedTuple):
    """One record of the stream."""

    what: str
    name: str
    offset: int
    data: bytes


def _read(stream: bytes) -> Iterator[Op]:
    at = 0
    while at < len(stream):
        what, name_size, size, offset = _HEAD.unpack_from(stream, at)
        at += _HEAD.size
        yield Op(what.decode(), stream[at : at + name_size].decode(), offset, stream[at + name_size :][:size])
        at += name_size + size


#: Changes of names, which a file system makes durable in their order.
_NAMES = "RLU"


@dataclass
class Platter:
    """What is on the disk for sure, and what is on its way."""

    files: dict[str, bytearray] = field(default_factory=dict)
    pending: list[Op] = field(default_factory=list)

    def see(self, op: Op, rng: random.Random) -> None:
        """Take one record in. A sync that failed is the last word on what it was to write: some of it is there, and nobody tries again."""
        if op.what == "S":
            left = []
            for each in self.pending:
                if each.what in _NAMES or each.name == op.name:
                    self._happen(each)
                else:
                    left.append(each)
            self.pending = left
        elif op.what == "F":
            for each in [each for each in self.pending if each.name == op.name and each.what not in _NAMES]:
                self.pending.remove(each)
                self._maybe(each, rng)
        else:
            self.pending.append(op)

    def lose_power(self, rng: random.Random) -> dict[str, bytes]:
        """What is found afterwards: of what was on its way some is there, some is not, some is torn."""
        names = sum(each.what in _NAMES for each in self.pending)
        names_left = rng.randint(0, names)
        for each in self.pending:
            if each.what in _NAMES:
                if names_left:
                    self._happen(each)
                names_left = max(0, names_left - 1)
            else:
                self._maybe(each, rng)
        return {name: bytes(data) for name, data in self.files.items()}

    def _maybe(self, op: Op, rng: random.Random) -> None:
        fate = rng.choice(("there", "gone", "torn"))
        if fate == "there":
            self._happen(op)
        elif fate == "torn" and op.what == "W":
            for start in range(0, len(op.data), SECTOR):
                if rng.random() < 0.5:
                    self._happen(Op("W", op.name, op.offset + start, op.data[start : start + SECTOR]))

    def _happen(self, op: Op) -> None:
        files = self.files
        if op.what == "W":
            data = files.setdefault(op.name, bytearray())
            end = op.offset + len(op.data)
            data.extend(bytes(max(0, end - len(data))))
            data[op.offset : end] = op.data
        elif op.what == "T":
            data = files.setdefault(op.name, bytearray())
            data.extend(bytes(max(0, op.offset - len(data))))
            del data[op.offset :]
        elif op.what == "U":
            files.pop(op.name, None)
        elif op.name in files:
            other = op.data.decode()
            files[other] = files[op.name] if op.what == "L" else files.pop(op.name)
