"""The option ``--given``: nodes and edges that count for one answer, from a JSON file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coldstart import cli_loading

if TYPE_CHECKING:
    from coldstart.engine import ColdStartEngine

_EXAMPLE = (
    '{"nodes": {"User": [{"id": "zoe", "city": "Rome"}]}, "edges": [{"type": ["User", "RATED", '
    '"Song"], "source": "zoe", "target": "s1", "weight": 5}]}'
)
_EDGE = {"type", "source", "target", "weight", "time"}


def add_option(command: argparse.ArgumentParser) -> None:
    """Add ``--given`` to a command."""
    command.add_argument(
        "--given",
        metavar="FILE",
        help="JSON with nodes and edges, as for /upsert of `coldstart serve`, that count for this "
        "answer alone: somebody new with three likes, a draft of an item",
    )


def engine_of(arguments: argparse.Namespace) -> ColdStartEngine:
    """The saved engine, with what ``--given`` names; nothing of that is kept.

    Raises:
        ValueError: there is no such file, it is not of that form, or does not fit the engine.
    """
    operation = None if arguments.given is None else _read(Path(arguments.given))
    engine = cli_loading.loader(arguments)(arguments.model)
    if operation is None:
        return engine
    from coldstart.serving.operations import supposed

    try:
        return supposed(engine, operation)
    except TypeError as error:  # a list where a key belongs, say
        raise ValueError(
            f"--given {arguments.given} does not fit the engine: {error}; keys are whole numbers "
            f"or strings; expected the like of {_EXAMPLE}"
        ) from error


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"--given: there is no file {path}; check the path")
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except ValueError as error:
        raise ValueError(f"--given {path} is no JSON in UTF-8: {error}") from error
    if wrong := _wrong_in(found):
        raise ValueError(f"--given {path}: {wrong}; expected the like of {_EXAMPLE}")
    return {"op": "upsert", **found}


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _wrong_in(found: Any) -> str | None:
    """What is not of the form of an upsert of nodes and edges."""
    if not isinstance(found, dict):
        return "it holds no object"
    if other := sorted(found.keys() - {"nodes", "edges"}):
        return f"it has {other[0]!r} beside nodes and edges"
    nodes, edges = found.get("nodes", {}), found.get("edges", [])
    if not isinstance(nodes, dict):
        return "nodes are no object of lists by type"
    for node_type, rows in nodes.items():
        if not (isinstance(rows, list) and all(isinstance(row, dict) for row in rows)):
            return f"nodes of {node_type!r} are no list of objects"
        for name, value in (item for row in rows for item in row.items()):
            if isinstance(value, dict):
                return f"{name!r} of {node_type!r} is an object"
    if not isinstance(edges, list):
        return "edges are no list"
    return next((f"edges[{at}] {w}" for at, e in enumerate(edges) if (w := _wrong_edge(e))), None)


def _wrong_edge(edge: Any) -> str | None:
    if not isinstance(edge, dict):
        return "is no object"
    if other := sorted(edge.keys() - _EDGE):
        return f"has {other[0]!r}, and an edge only {', '.join(sorted(_EDGE))}"
    kind = edge.get("type")
    if not (isinstance(kind, list) and len(kind) == 3 and all(isinstance(x, str) for x in kind)):
        return f"has the type {kind!r}, no list of three names"
    for end in ("source", "target"):
        if isinstance(edge.get(end), bool) or not isinstance(edge.get(end), (int, str)):
            return f"has the {end} {edge.get(end)!r}, no key"
    if isinstance(edge.get("weight"), bool) or not isinstance(edge.get("weight", 0), (int, float)):
        return f"has the weight {edge['weight']!r}, no number"
    if isinstance(edge.get("time"), bool) or not isinstance(edge.get("time", 0), (int, str)):
        return f"has the time {edge['time']!r}, no whole number or date"
    return None
