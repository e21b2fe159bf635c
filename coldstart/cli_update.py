"""Commands that bring a saved engine up to a graph, and put its vectors into a file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coldstart import cli_graph, cli_loading

if TYPE_CHECKING:
    import pyarrow as pa

    from coldstart.engine import ColdStartEngine
    from kg.delta import GraphDelta
    from kg.stores.changes import Changes


def add_commands(commands: Any) -> None:
    """Add the commands of this module to those of ``coldstart``."""
    updating = commands.add_parser(
        "update",
        help="bring a saved engine up to a graph that has changed, without training",
        description="Bring a saved engine up to a graph that has changed, without training. Node "
        "and edge types of a store that the engine was fitted without are not looked at; of "
        "several edges between the same two nodes the last one counts.",
    )
    updating.add_argument("model", help="folder of a saved engine; replaced")
    cli_graph.add_place(updating, graph=True, first=True)
    updating.add_argument(
        "--keep",
        action="store_true",
        help="keep the nodes and edges that only the engine has, and what it heard; properties "
        "become those of the graph",
    )
    updating.add_argument(
        "--yes",
        action="store_true",
        help="also where more than half of the users, items or interactions go",
    )
    updating.add_argument("--dry-run", action="store_true", help="say what would change")
    cli_loading.add_option(updating)
    updating.set_defaults(run=_update)

    vectors = commands.add_parser(
        "vectors", help="embeddings of all users or items of a saved engine, to a Parquet file"
    )
    vectors.add_argument("model", help="folder of a saved engine")
    vectors.add_argument("type", help="node type of its users or of its items")
    vectors.add_argument("file", help="Parquet, with the columns id and embedding; replaced")
    cli_loading.add_option(vectors)
    vectors.set_defaults(run=_vectors)


def _update(arguments: argparse.Namespace) -> None:
    from coldstart.known_names import check_names

    engine = cli_loading.loader(arguments)(arguments.model)
    changes = _changes_since(arguments, engine)
    delta = _kept(engine, changes.delta) if arguments.keep else changes.delta
    check_names(engine.graph, delta)
    print(replace(changes, delta=delta))
    if not delta:
        return
    if engine.heard.after(engine.graph, delta) != engine.heard:
        raise ValueError(
            f"{arguments.model} heard feedback that the graph does not have, and would lose it; "
            "give --keep, and no node or edge that only the engine has is removed"
        )
    if not arguments.yes:
        _require_most_to_stay(engine, delta)
    if arguments.dry_run:
        return
    engine = engine.update(delta, progress=sys.stderr.isatty())
    engine.save(arguments.model)
    print(f"{engine.graph}\nwritten to {arguments.model}")
    print("a server that runs on it takes it by POST /reload or SIGHUP")


def _changes_since(arguments: argparse.Namespace, engine: ColdStartEngine) -> Changes:
    """What the graph that the options name has, beside that of the engine."""
    from kg.difference import difference
    from kg.files import read_graph
    from kg.stores.changes import Changes

    if not arguments.graph:
        with cli_graph.open_store(arguments) as store:
            return store.read_changes(engine.graph, progress=sys.stderr.isatty())
    cli_graph.refuse(arguments, cli_graph.OF_SERVER, cli_graph.NO_SERVER)
    graph = read_graph(arguments.graph)
    if graph.schema != engine.graph.schema:
        raise ValueError(
            f"the schema of {arguments.graph} is not the one that {arguments.model} was fitted "
            "with; use `coldstart fit`, or import the graph with the schema in "
            f"{Path(arguments.model) / 'graph' / 'schema.toml'}"
        )
    return Changes(difference(engine.graph, graph), None, {})


def _require_most_to_stay(engine: ColdStartEngine, delta: GraphDelta) -> None:
    """Refuse what may be a change to the graph of somebody else, or to one half imported."""
    graph = engine.graph
    interaction = graph.schema.interaction
    parts = [
        (f"{nodes.node_type} nodes", len(delta.removed_nodes.get(nodes.node_type, ())), len(nodes))
        for nodes in (graph.users, graph.items)
    ]
    if (removed := delta.removed_edges.get(interaction)) is not None:
        # Where weights or times come or go, all edges are removed and come again.
        again = delta.edges.get(interaction)
        back = set() if again is None else set(_pairs(again))
        gone = sum(pair not in back for pair in _pairs(removed))
        parts.append((f"{'-'.join(interaction)} edges", gone, len(graph.interactions)))
    for what, gone, number in parts:
        if 2 * gone > number:
            raise ValueError(
                f"{gone} of {number} {what} would go; if this is the right graph, give --yes, or "
                "--keep to remove nothing (nothing was changed)"
            )


def _pairs(edges: pa.Table) -> Iterator[tuple[Any, Any]]:
    return zip(edges["source"].to_pylist(), edges["target"].to_pylist(), strict=True)


def _kept(engine: ColdStartEngine, delta: GraphDelta) -> GraphDelta:
    """A change that removes nothing, and leaves pairs alone that the engine heard of."""
    import pyarrow as pa

    edges = dict(delta.edges)
    interaction = engine.graph.schema.interaction
    if engine.heard and (table := edges.get(interaction)) is not None:
        fresh = [item not in engine.heard.users.get(user, ()) for user, item in _pairs(table)]
        edges[interaction] = table.filter(pa.array(fresh, pa.bool_()))
    return replace(delta, edges=edges, removed_nodes={}, removed_edges={})


def _vectors(arguments: argparse.Namespace) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from kg.files import write_atomically

    if Path(arguments.file).is_dir():
        raise ValueError(f"{arguments.file} is a folder; name a file in it")
    engine = cli_loading.loader(arguments)(arguments.model)
    found = engine.embeddings(arguments.type)
    sink = pa.BufferOutputStream()
    pq.write_table(found.to_table(), sink)
    write_atomically(Path(arguments.file), sink.getvalue())
    print(f"{len(found)} vectors of {found.dim} floats written to {arguments.file}")
