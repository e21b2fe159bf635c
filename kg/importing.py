"""A graph in a folder that follows a store, or files: all the first time, then what changed."""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kg.difference import difference, same_edges
from kg.errors import SavedFileError
from kg.files import (
    GRAPH_KIND,
    GRAPH_VERSION,
    read_folder,
    read_graph_files,
    write_atomically,
    write_folder,
    write_graph,
    write_graph_files,
)
from kg.graph import KnowledgeGraph, in_row_order
from kg.schema import Schema
from kg.table_files import TableFiles

if TYPE_CHECKING:
    from kg.stores.base import CypherStore
    from kg.stores.changes import Changes

NOTE = "import.json"


@dataclass(frozen=True)
class Import:
    """What an import came to.

    Args:
        graph: what is in the folder now.
        changes: what was new; ``None`` where the folder held no graph from there before, or where
            only some of several parallel edges changed, which no delta can say.
    """

    graph: KnowledgeGraph
    changes: Changes | None


@dataclass(frozen=True)
class _Note:
    """How a folder was imported, so that the next time can take up from there."""

    source: str
    updated_at: str | None
    mark: Any
    schema: dict[str, Any]


def import_graph(
    store: CypherStore,
    folder: str | Path,
    schema: Schema,
    *,
    updated_at: str | None = None,
    full: bool = False,
    on_dangling: str = "error",
    progress: bool = False,
) -> Import:
    """Bring a folder up to what a store holds; the folder is the old one or the new one, whole.

    The first time, and where the folder was imported from another store or with another schema,
    everything is read. Later only what changed, see :meth:`CypherStore.read_changes`.

    Args:
        store: to read from.
        folder: for :func:`kg.files.read_graph`; made if absent.
        schema: what to read.
        updated_at: a property that grows with every change.
        full: read everything in any case.
        on_dangling: as in :meth:`CypherStore.read`.
        progress: show a bar with rate and estimate.

    Raises:
        SavedFileError: something else than a saved graph is at ``folder``.
    """
    folder = Path(folder)
    before, graph = (None, None) if full else _before(folder, store.name, schema)
    if before is not None and graph is not None:
        since = before.mark if before.updated_at == updated_at else None
        changes = store.read_changes(graph, updated_at=updated_at, since=since, progress=progress)
        graph = graph.apply(changes.delta) if changes.delta else graph
        note = _Note(store.name, updated_at, changes.mark, schema.to_dict())
        if changes.delta or note != before:
            _write(graph, folder, note)
        return Import(graph, changes)
    # The mark is taken before the graph is read: what changes meanwhile is looked at again.
    mark = None if updated_at is None else store.latest_change(schema, updated_at)
    graph = store.read(schema, on_dangling=on_dangling, progress=progress)
    _write(graph, folder, _Note(store.name, updated_at, mark, schema.to_dict()))
    return Import(graph, None)


def import_tables(
    path: str | Path, folder: str | Path, *, full: bool = False, on_dangling: str = "error"
) -> Import:
    """Bring a folder up to what files of tables hold; see :func:`kg.table_files.read_tables`.

    Everything is read each time. A folder that holds all of it already is left as it is.

    Args:
        path: of the TOML file that tells of the files.
        folder: for :func:`kg.files.read_graph`; made if absent.
        full: write it in any case, and look at nothing that is there.
        on_dangling: as in :meth:`kg.graph.KnowledgeGraph.from_tables`.

    Raises:
        SavedFileError: something else than a saved graph is at ``folder``.
    """
    from kg.stores.changes import Changes

    folder, source = Path(folder), str(Path(path).resolve())
    files = TableFiles.read(path)
    graph = files.graph(on_dangling=on_dangling)
    note = _Note(source, None, None, files.schema.to_dict())
    before, old = (None, None) if full else _before(folder, source, files.schema)
    if before is None or old is None:
        _write(graph, folder, note)
        return Import(graph, None)
    types = (*graph.node_types, *graph.edge_types)
    changes = Changes(difference(old, graph), None, dict.fromkeys(types, "contents"))
    if _are_equal(old, graph):
        return Import(graph, changes)
    _write(graph, folder, note)
    # A difference folds parallel edges, so that it may be empty where one of several changed.
    return Import(graph, changes if changes.delta else None)


def rewrite_graph(graph: KnowledgeGraph, folder: str | Path) -> None:
    """Put a graph in place of a saved one, which is imported from as before."""
    note = _note_of(Path(folder))
    write_graph(graph, folder) if note is None else _write(graph, Path(folder), note)


def _are_equal(old: KnowledgeGraph, new: KnowledgeGraph) -> bool:
    """Whether two graphs hold the same nodes, properties and edges, parallel ones among them."""
    if old.vocabularies != new.vocabularies or old.edges.keys() != new.edges.keys():
        return False
    for node_type, table in new.attributes.items():
        if not old.attributes[node_type].equals(table):
            return False
    return all(
        same_edges(in_row_order(old.edges[edge_type]), in_row_order(edges))
        for edge_type, edges in new.edges.items()
    )


def _write(graph: KnowledgeGraph, folder: Path, note: _Note) -> None:
    def files(at: Path) -> None:
        write_graph_files(graph, at)
        told = {**note.__dict__, "mark": _told(note.mark)}
        write_atomically(at / NOTE, json.dumps(told, indent=1).encode())

    write_folder(folder, files, kind=GRAPH_KIND, version=GRAPH_VERSION)


def _before(
    folder: Path, source: str, schema: Schema
) -> tuple[_Note | None, KnowledgeGraph | None]:
    """The last import of the same from there and its graph; another import may be replacing it."""
    wanted = (source, schema.to_dict())

    def follows(note: _Note | None) -> bool:
        return note is not None and (note.source, note.schema) == wanted

    def read(at: Path) -> tuple[_Note | None, KnowledgeGraph | None]:
        note = _note_of(at)
        return (note, read_graph_files(at)) if follows(note) else (None, None)

    if not follows(_note_of(folder)):
        return None, None
    return read_folder(folder, read, kind=GRAPH_KIND, version=GRAPH_VERSION)


def _note_of(folder: Path) -> _Note | None:
    """How the folder was imported; ``None`` where it is not there or was made otherwise."""
    if not (folder / NOTE).exists():
        return None
    try:
        told = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        return _Note(told["source"], told["updated_at"], _heard(told["mark"]), told["schema"])
    except (ValueError, KeyError, TypeError) as error:
        raise SavedFileError(f"{folder}: {NOTE} is damaged ({error}); import with full") from error


def _told(mark: Any) -> Any:
    """A mark as JSON has it: times with their kind."""
    if isinstance(mark, datetime.datetime):
        return {"datetime": mark.isoformat()}
    if isinstance(mark, datetime.date):
        return {"date": mark.isoformat()}
    return mark


def _heard(told: Any) -> Any:
    if not isinstance(told, dict):
        return told
    if "datetime" in told:
        return datetime.datetime.fromisoformat(told["datetime"])
    return datetime.date.fromisoformat(told["date"])
