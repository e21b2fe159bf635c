"""What the page needs besides lists: names of nodes, and the table of the nine segments."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from coldstart.paths import name_of, naming_properties
from coldstart.segments import CLASSES
from kg.graph import KnowledgeGraph
from kg.tables import text_column
from kg.vectors import Key

_SCRIPT = re.compile(r"<script>(.*?)</script>", re.S)


def page() -> tuple[str, dict[str, str]]:
    """The page and the headers that let it load nothing but itself."""
    html = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
    (script,) = _SCRIPT.findall(html)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return html, {"content-security-policy": policy, "x-content-type-options": "nosniff"}


def names_of(graph: KnowledgeGraph, node_type: str, keys: list[Key]) -> list[dict[str, Any]]:
    """Keys with their names.

    Raises:
        UnknownNodeError: a key is not in the graph.
        ValueError: there is no such type.
    """
    rows = _nodes(graph, node_type).rows(keys).tolist()
    return [
        {"key": key, "name": name_of(graph, node_type, row)}
        for key, row in zip(keys, rows, strict=True)
    ]


def found_nodes(
    graph: KnowledgeGraph, node_type: str, part: str, most: int
) -> list[dict[str, Any]]:
    """Nodes whose name or key has a part in it, whatever the case, in row order.

    Raises:
        ValueError: there is no such type.
    """
    nodes, table = _nodes(graph, node_type), graph.attributes[node_type]
    columns = [nodes.keys]
    if (title := title_property(graph, node_type)) is not None:
        columns.append(pa.chunked_array([pa.array(text_column(table[title]), pa.large_string())]))
    hit = None
    for column in columns:
        one = pc.fill_null(  # pyright: ignore[reportAttributeAccessIssue]
            pc.match_substring(column.cast(pa.large_string()), part, ignore_case=True),  # pyright: ignore
            False,
        )
        hit = one if hit is None else pc.or_(hit, one)  # pyright: ignore
    rows = pc.indices_nonzero(hit).to_pylist()[:most]  # pyright: ignore
    return [{"key": nodes[row], "name": name_of(graph, node_type, row)} for row in rows]


def next_key(graph: KnowledgeGraph, node_type: str) -> int | None:
    """A whole number that is no key yet; ``None`` where keys are strings."""
    nodes = graph.vocabularies[node_type]
    if not nodes.is_int:
        return None
    largest = pc.max(nodes.keys).as_py()  # pyright: ignore[reportAttributeAccessIssue]
    return 1 if largest is None else largest + 1


def title_property(graph: KnowledgeGraph, node_type: str) -> str | None:
    """The property that a name goes into, if there is one."""
    return next(iter(naming_properties(graph, node_type)), None)


def nine_of(report: Mapping[str, Any], scorer: str = "engine") -> dict[str, Any] | None:
    """The 3 x 3 table of mean NDCG in what ``coldstart evaluate --json`` printed, if it has one."""
    table = []
    for users in CLASSES:
        line = []
        for items in CLASSES:
            segment = f"{users}_users_{items}_items"
            values = [
                row["ndcg"]
                for row in report["rows"]
                if (row["segment"], row["scorer"]) == (segment, scorer) and row["ndcg"] is not None
            ]
            line.append(sum(values) / len(values) if values else None)
        table.append(line)
    if all(value is None for line in table for value in line):
        return None
    return {"scorer": scorer, "k": report["k"], "classes": list(CLASSES), "ndcg": table}


def read_report(path: str | Path) -> dict[str, Any] | None:
    """The table in a file that ``coldstart evaluate --json`` wrote.

    Raises:
        ValueError: it is something else.
    """
    try:
        return nine_of(json.loads(Path(path).read_text(encoding="utf-8")))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: expected what `coldstart evaluate --json` prints, got something else "
            f"({error}); run it again"
        ) from error


def _nodes(graph: KnowledgeGraph, node_type: str):
    if node_type not in graph.vocabularies:
        raise ValueError(f"no nodes of type {node_type!r}; there are {sorted(graph.vocabularies)}")
    return graph.vocabularies[node_type]
