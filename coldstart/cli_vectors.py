"""The option ``--vectors``: ready-made vectors of users and items, from Parquet files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coldstart.ready_vectors import Ready
    from kg.vectors import NodeEmbeddings

EXPECTED = "TYPE.NAME=FILE, such as Movie.poster=posters.parquet"


def add_option(command: argparse.ArgumentParser) -> None:
    """Add ``--vectors`` to a command."""
    command.add_argument(
        "--vectors",
        action="append",
        default=[],
        metavar="TYPE.NAME=FILE",
        help="vectors of images, sound and the like as further features, from a Parquet file with "
        "the columns id and embedding (lists of as many floats each); give it several times",
    )


def read_vectors(given: list[str]) -> Ready:
    """What the option names, read.

    Raises:
        ValueError: a value is not of that form, or comes twice.
        FileNotFoundError: there is no such file.
    """
    found: dict[str, dict[str, NodeEmbeddings]] = {}
    for value in given:
        place, _, path = value.partition("=")
        node_type, _, name = place.partition(".")
        if not (node_type and name and path):
            raise ValueError(f"--vectors: expected {EXPECTED}, got {value!r}")
        named = found.setdefault(node_type, {})
        if name in named:
            raise ValueError(f"--vectors {place} is given twice; give each name one file")
        named[name] = _read(node_type, Path(path))
    return found


def _read(node_type: str, path: Path) -> NodeEmbeddings:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from kg.vectors import NodeEmbeddings

    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; check the path")
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is no Parquet file: {error}") from error
    return NodeEmbeddings.from_table(node_type, table)
