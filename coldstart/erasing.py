"""A person or an item erased from store, text cache, saved engines and graphs; and the proof."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from coldstart.journal import journal_content, read_journal
from kg.delta import GraphDelta
from kg.errors import StoreError, UnknownNodeError
from kg.files import MANIFEST, read_graph, write_atomically
from kg.graph import KnowledgeGraph
from kg.importing import rewrite_graph
from kg.schema import Schema
from kg.stores import LadybugStore
from kg.stores.base import CypherStore
from kg.tables import is_string
from kg.vectors import Key
from kg.wording import counted

if TYPE_CHECKING:
    from coldstart.engine import ColdStartEngine
    from coldstart.serving.durable import DurableEngine
    from encoders.cache import VectorCache

SHORTEST_TEXT = 8
"""Characters; shorter texts and keys are everywhere, so only whole values are compared."""


@dataclass(frozen=True)
class Trace:
    """One place that holds something of a node.

    Args:
        file: or the name of a store.
        place: column, entry or the like.
        what: ``"key"``, ``"text"`` or ``"vector"``.
        why: it is still there, where that is known.
    """

    file: str
    place: str
    what: str
    why: str = ""

    def __str__(self) -> str:
        return f"{self.file}, {self.place}: {self.what}{self.why and f' ({self.why})'}"


@dataclass(frozen=True)
class Erasure:
    """What an erasure came to.

    Args:
        done: what was removed, in sentences.
        before: where the node was found before.
        after: where something of it is still found.
        remains: what remains and why, in sentences; also what no search from here can see.
    """

    done: tuple[str, ...]
    before: tuple[Trace, ...]
    after: tuple[Trace, ...]
    remains: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        listed = {"before": self.before, "after": self.after}
        traces = {name: [t.__dict__ for t in traces] for name, traces in listed.items()}
        return {"done": list(self.done), **traces, "remains": list(self.remains)}

    def __str__(self) -> str:
        lines = [f"found in {len(self.before)} places before, in {len(self.after)} after:"]
        lines += [f"  before: {t}" for t in self.before] + [f"  after: {t}" for t in self.after]
        return "\n".join([*self.done, *lines, *(f"remains: {r}" for r in self.remains)])


@dataclass
class Person:
    """What is looked for.

    Args:
        node_type: of the node.
        key: its key.
        texts: its texts, those that are long enough to be told from others.
        vectors: bytes of its vectors.
        shared: those of its texts that other nodes have, too.
        learnt: those of its vectors that training made.
    """

    node_type: str
    key: Key
    texts: set[str] = field(default_factory=set)
    vectors: set[bytes] = field(default_factory=set)
    shared: set[str] = field(default_factory=set)
    learnt: set[bytes] = field(default_factory=set)

    def learn(self, graph: KnowledgeGraph) -> list[str]:
        """Note the texts of the node in a graph; those that were encoded, as they were."""
        from coldstart.updating import graph_of_rows
        from encoders.texts import node_texts

        if self.key not in graph.vocabularies.get(self.node_type, ()):
            return []
        rows = graph.vocabularies[self.node_type].rows([self.key])
        some = graph_of_rows(graph, self.node_type, rows)
        for name in graph.schema.text.get(self.node_type, ()):
            if name in some.attributes[self.node_type].column_names:
                self._add(some.attributes[self.node_type][name].to_pylist())
        encoded = list(node_texts(some, self.node_type))
        self._add(encoded)
        return encoded

    def compare(self, graph: KnowledgeGraph) -> None:
        """Note which of the texts nodes of a graph have, from which this one is gone."""
        for table in graph.attributes.values():
            for name in table.column_names:
                if is_string(table[name].type):
                    self.shared |= self.texts.intersection(table[name].to_pylist())

    def _add(self, values: Iterable[Any]) -> None:
        self.texts |= {v for v in values if isinstance(v, str) and len(v) >= SHORTEST_TEXT}

    def told(self, left: list[Trace], search: Callable[[Person], list[Trace]]) -> list[Trace]:
        """Traces that are left, each with the reason if it is known for all that is found there.

        Args:
            left: what was found.
            search: the same search for something else.
        """
        rest = replace(self, texts=self.texts - self.shared, vectors=self.vectors - self.learnt)
        unexplained = set(search(rest)) if left else set()
        reasons = {
            "vector": "what it had in training, see what remains",
            "text": "other nodes have the same text",
        }
        return [
            trace if trace in unexplained else replace(trace, why=reasons.get(trace.what, ""))
            for trace in left
        ]

    def in_value(self, value: Any) -> str | None:
        """What of the node a decoded value holds."""
        if not isinstance(value, str):
            return None
        if value == self.key or (
            isinstance(self.key, str) and len(self.key) >= SHORTEST_TEXT and self.key in value
        ):
            return "key"
        return "text" if any(text in value for text in self.texts) else None

    def in_bytes(self, content: bytes) -> set[str]:
        """What of the node the bytes of a file hold."""
        found = {"vector" for vector in self.vectors if vector in content}
        found |= {"text" for text in self.texts if text.encode() in content}
        if isinstance(self.key, str) and len(self.key) >= SHORTEST_TEXT:
            found |= {"key"} if self.key.encode() in content else set()
        return found


def erase(
    node_type: str,
    key: Key,
    *,
    stores: Sequence[CypherStore] = (),
    models: Sequence[str | Path] = (),
    graphs: Sequence[str | Path] = (),
    logs: Sequence[str | Path] = (),
    states: Mapping[str | Path, str | Path] = MappingProxyType({}),
    cache: VectorCache | None = None,
    load: Callable[[Path], ColdStartEngine] | None = None,
) -> Erasure:
    """Erase a user or an item everywhere, and search what is left for it.

    The same search runs before and after: over the decoded values of every Parquet and JSON file
    and every log, the bytes of arrays and of the cache (for the node's vectors and texts), and the
    stores by key. The store is last, so that a run that was killed is completed by the next.

    Args:
        node_type: users or items.
        key: of the node.
        stores: to erase from.
        models: folders of saved engines; they are updated and saved anew, without training.
        graphs: folders of saved graphs.
        logs: files of :class:`coldstart.feedback.EventLog`, which no process may have open: they
            are written anew.
        states: by model, the folder in which ``coldstart serve`` keeps its changes and snapshots.
        cache: of text vectors.
        load: reads the folder of an engine; :meth:`ColdStartEngine.load` by default.

    Raises:
        UnknownNodeError: nothing of the node is found anywhere.
        ValueError: there are logs, and no model or graph that tells whether the node is a user.
        RuntimeError: a server has one of the states; nothing is erased then.
    """
    from coldstart.engine import ColdStartEngine

    person = Person(node_type, key)
    load = load or ColdStartEngine.load
    with ExitStack() as opened:
        served = {Path(m): _served(opened, Path(m), Path(s), load) for m, s in states.items()}
        engines = {Path(p): load(Path(p)) for p in models if Path(p) not in served}
        engines |= {path: durable.current.engine for path, durable in served.items()}
        read = {Path(p): read_graph(p) for p in graphs}
        schemas = [g.schema for g in (*(e.graph for e in engines.values()), *read.values())]
        heard = {Path(p): _heard(Path(p), node_type, key, schemas) for p in logs}
        encoded = []
        for graph in (*(e.graph for e in engines.values()), *read.values()):
            encoded += person.learn(graph)
        for engine in engines.values():
            if key in engine.graph.vocabularies.get(node_type, ()):
                person.learnt |= _learnt_of(engine, node_type, key)
                person.vectors |= person.learnt | _given_to(engine, node_type, key)
        folders, files = [*engines, *read], list(heard)

        def search(person: Person) -> list[Trace]:
            found = _search(person, stores, folders, cache)
            for durable in served.values():
                found += traces_in_state(
                    durable.folder, person, durable.current.engine.graph.schema
                )
            return [*found, *(t for file in files for t in _in_log(file, node_type, key, schemas))]

        before = search(person)
        if not before:
            raise UnknownNodeError(
                f"{node_type} {key!r} is found in none of the places named; check the key, and "
                "name every store, model, graph and log that may hold it"
            )
        gone, done, remains = GraphDelta(removed_nodes={node_type: [key]}), [], []
        for durable in served.values():
            with suppress(UnknownNodeError):  # neither there nor in what it keeps
                done += durable.erase(node_type, key)
        if cache is not None and encoded:
            done.append(f"{cache.path}: {counted(cache.erase(encoded), 'text vector')} removed")
        for path, engine in engines.items():
            if path not in served and key in engine.graph.vocabularies.get(node_type, ()):
                engine = engine.update(gone)
                engine.save(path)
                done.append(f"{path}: removed from graph, vectors and texts")
            if path not in served:
                person.compare(engine.graph)
        for path, graph in read.items():
            if key in graph.vocabularies.get(node_type, ()):
                graph = graph.apply(gone)
                rewrite_graph(graph, path)
                done.append(f"{path}: removed from the graph")
            person.compare(graph)
        for path, (kept, gone_events) in heard.items():
            if gone_events:
                write_atomically(path, journal_content(kept))
            done.append(f"{path}: {counted(gone_events, 'event')} removed")
        for store in stores:
            nodes, edges = store.erase(node_type, [key])
            done.append(
                f"{store.name}: {counted(nodes, 'node')} and {counted(edges, 'edge')} removed"
            )
            remains += _compacted(store)
        after = person.told(search(person), search)
        if engines:
            remains.append(
                "trained weights: sums over all users and items, and the vector that this one had "
                "in training, without a key or text; fit anew to be rid of them"
            )
        return Erasure(tuple(done), tuple(before), tuple(after), tuple(remains))


def _served(
    opened: ExitStack, model: Path, state: Path, load: Callable[[Path], ColdStartEngine]
) -> DurableEngine:
    from coldstart.serving.durable import DurableEngine

    try:
        durable = DurableEngine(model, state, load=load)
    except RuntimeError as error:
        raise RuntimeError(
            f"{state}: a server has it; send POST /erase to that, or stop it first (nothing was "
            "erased)"
        ) from error
    opened.callback(durable.close)
    return durable


def _heard(log: Path, node_type: str, key: Key, schemas: Sequence[Schema]) -> tuple[list[Any], int]:
    """The events of a log that are not of the node, and the number of those that are."""
    if not log.is_file():
        raise ValueError(f"there is no event log at {log}; check the path (nothing was erased)")
    if not schemas:
        raise ValueError(
            f"{log}: name a model or graph, too, which tells whether {node_type} are users or items"
        )
    roles = {schemas[0].user: "user", schemas[0].item: "item"}
    events = list(read_journal(log))
    if (role := roles.get(node_type)) is None:
        return events, 0
    kept = [event for event in events if event[role] != key]
    return kept, len(events) - len(kept)


def _in_log(log: Path, node_type: str, key: Key, schemas: Sequence[Schema]) -> list[Trace]:
    _, gone = _heard(log, node_type, key, schemas)
    return [Trace(str(log), counted(gone, "event"), "key")] if gone else []


def traces_in_state(folder: Path, person: Person, schema: Schema) -> list[Trace]:
    """Places of the state of ``coldstart serve`` that hold something of a node."""
    from coldstart.serving.operations import redacted

    found = []
    for segment in sorted((folder / "journal").glob("*.log")):
        records = list(read_journal(segment))
        told = sum(redacted(r, person.node_type, person.key, schema) != r for r in records)
        if told:
            found.append(Trace(str(segment), counted(told, "record"), "key"))
    for file in sorted((folder / "snapshots").rglob("*")):
        if file.is_file():
            found += [Trace(str(file), place, what) for place, what in _in_file(person, file)]
    return found


def _given_to(engine: ColdStartEngine, node_type: str, key: Key) -> set[bytes]:
    """The vectors that an engine was given of a node: of its text, and ready-made ones."""
    known = [engine.texts[node_type]] if node_type in engine.texts else []
    known += engine.vectors.get(node_type, {}).values()
    every = [vectors.of([key]) for vectors in known]
    return {vector.tobytes() for vector in every if np.any(vector)}


def _learnt_of(engine: ColdStartEngine, node_type: str, key: Key) -> set[bytes]:
    """Its embedding, as it is saved and as it is told."""
    _, kept = engine._side(node_type)  # before the gain of new items
    row = engine.graph.vocabularies[node_type].row(key)
    every = kept[row].cpu().numpy(), engine.embed(node_type, [key]).matrix
    return {vector.tobytes() for vector in every if np.any(vector)}


def _compacted(store: CypherStore) -> list[str]:
    """Free what a store still holds of deleted nodes, where that can be done; what remains."""
    if not isinstance(store, LadybugStore):
        return [f"{store.name}: its transaction logs and backups, until the server rotates them"]
    if store.path == ":memory:":
        return []
    try:
        store.compact()
    except StoreError as error:
        return [f"{store.name}: deleted values in free pages of the file ({error})"]
    return [f"copies and backups of {store.name}"]


def _search(
    person: Person,
    stores: Sequence[CypherStore],
    folders: Sequence[Path],
    cache: VectorCache | None,
) -> list[Trace]:
    found: dict[Trace, None] = {}
    for store in stores:
        key = store._key_of(person.node_type, None)
        if store._known_keys(person.node_type, key, [person.key]):
            found[Trace(store.name, f"{person.node_type}.{key}", "key")] = None
        if isinstance(store, LadybugStore) and store.path != ":memory:":
            store.close()  # so that all is in its file
            path = Path(store.path)
            for file in sorted([*path.parent.glob(f"{path.name}*"), *_leftovers(path)]):
                if file.is_file():
                    for what in sorted(person.in_bytes(file.read_bytes())):
                        found[Trace(str(file), "bytes", what)] = None
    for folder in folders:
        inside = (p for p in folder.rglob("*") if p.is_file())
        for file in sorted([*inside, *_leftovers(folder)]):
            for place, what in _in_file(person, file):
                found[Trace(str(file), place, what)] = None
    if cache is not None:
        for file in sorted(cache.folder.glob(f"{cache.path.name}*")):
            for what in sorted(person.in_bytes(file.read_bytes())):
                found[Trace(str(file), "bytes", what)] = None
    return list(found)


def _leftovers(path: Path) -> list[Path]:
    """Files in hidden folders beside a path, of writers that were killed."""
    beside = path.absolute().parent.glob(f".{path.name}.*")
    return [p for top in beside for p in top.rglob("*") if p.is_file()]


def _in_file(person: Person, file: Path) -> Iterator[tuple[str, str]]:
    """Places in a file that hold something of the node, decoded."""
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        for name, column in _columns(pq.ParquetFile(file).read(), ""):
            for what in _in_column(person, file, name, column):
                yield f"column {name}", what
    elif file.suffix == ".json" and file.name != MANIFEST:
        for place, value in _values(json.loads(file.read_text(encoding="utf-8")), ""):
            if what := person.in_value(value):
                yield place, what
    else:
        for what in sorted(person.in_bytes(file.read_bytes())):
            yield "bytes", what


def _columns(table: pa.Table, prefix: str) -> Iterator[tuple[str, pa.ChunkedArray]]:
    """All columns, lists unpacked."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        while pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            column = pc.list_flatten(column)  # pyright: ignore
        yield prefix + name, column


def _in_column(person: Person, file: Path, name: str, column: pa.ChunkedArray) -> Iterator[str]:
    if pa.types.is_integer(column.type):
        # A number means a person only where it is a key of that type.
        if isinstance(person.key, int) and name == "key" and _keys_of(file) == person.node_type:
            equal = pc.equal(column, person.key)  # pyright: ignore
            if pc.any(equal).as_py():  # pyright: ignore
                yield "key"
    elif pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        yield from sorted({w for v in column.unique().to_pylist() if (w := person.in_value(v))})


def _keys_of(file: Path) -> str | None:
    """The node type whose keys a file of a saved graph holds."""
    listing = file.parent / "graph.json"
    if not listing.exists():
        return None
    nodes = json.loads(listing.read_text(encoding="utf-8"))["nodes"]
    return next((entry["type"] for entry in nodes if entry["keys"] == file.name), None)


def _values(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """All plain values in decoded JSON with the way to them, names of entries included."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield f"{place}/{name}", name
            yield from _values(inner, f"{place}/{name}")
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield from _values(inner, f"{place}/{at}")
    else:
        yield place, value
