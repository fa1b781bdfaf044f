"""Where a log is read from: a folder, or a URL below which any web server shows its files."""

import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Final

from farthing.tlog.tiles import Fetch, MissingTile

#: A static file that does not come in this time does not come; the witness looks again at its next turn.
TIMEOUT_S: Final = 20.0
_MISSING: Final = frozenset({403, 404, 410})


class PlaceError(Exception):
    """The place cannot be read now; nothing was learned of the log."""


def fetch_from(place: str) -> Fetch:
    """Read files below ``place``, an http(s) URL or a folder. ``PlaceError``, and ``MissingTile`` for a file that is not there."""
    if place.startswith(("https://", "http://")):
        return _from_url(place.rstrip("/"))
    if "://" in place:
        raise PlaceError(f"{place}: write an http(s) URL or a folder")
    return _from_folder(Path(place))


def _from_folder(folder: Path) -> Fetch:
    def fetch(path: str, most: int) -> bytes:
        file = folder / path
        try:
            with file.open("rb") as opened:
                return _bounded(str(file), opened.read, most)
        except (FileNotFoundError, NotADirectoryError) as err:
            raise MissingTile(f"{file}: not there") from err
        except OSError as err:
            raise PlaceError(f"{file}: {err.strerror}") from err

    return fetch


def _from_url(prefix: str) -> Fetch:
    def fetch(path: str, most: int) -> bytes:
        url = f"{prefix}/{path}"
        try:
            # Only http and https come here; other schemes were refused by ``fetch_from``.
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:  # noqa: S310 the scheme was checked
                return _bounded(url, answer.read, most)
        except urllib.error.HTTPError as err:
            err.close()
            if err.code in _MISSING:
                raise MissingTile(f"{url}: {err.code}") from err
            raise PlaceError(f"{url}: {err.code}") from err
        except (OSError, ValueError) as err:
            raise PlaceError(f"{url}: {err}") from err

    return fetch


def _bounded(name: str, read: Callable[[int], bytes], most: int) -> bytes:
    data = read(most + 1)
    if len(data) > most:
        raise PlaceError(f"{name}: more than {most} bytes")
    return data
