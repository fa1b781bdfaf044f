"""The journal's SQL: one sentence a file, read once."""

from functools import cache
from importlib.resources import files


@cache
def sentence(name: str) -> str:
    """The SQL sentence ``sql/<name>.sql``."""
    return files("farthing_edge.journal").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8").strip().rstrip(";")
