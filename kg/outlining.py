"""What a graph will be like, from counts and samples: enough to say what a run will take."""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import io
import json
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kg.files import GRAPH_KIND, GRAPH_VERSION, read_folder
from kg.graph import KnowledgeGraph
from kg.schema import EdgeType, Schema

if TYPE_CHECKING:
    from kg.stores.base import CypherStore

SAMPLE_NODES = 1_000
SAMPLE_EDGES = 50_000
_EDGES_TO_WRITE = 200_000


@dataclass(frozen=True)
class Outline:
    """Counts and samples of a graph, and how fast they came.

    Args:
        schema: complete: keys and edge types as they will be read.
        nodes: number of nodes by node type.
        edges: number of edges by edge type; from a server an upper bound.
        sample: a graph of the first nodes of each type, without edges.
        columns: numbers per edge beside its ends (weight, time), by edge type.
        positive_share: share of the interactions that count as positive, 0 to 1.
        degrees: interactions of some users and of some items, int64.
        node_seconds: reading one node takes so long, by node type.
        edge_seconds: reading one edge takes so long, by edge type.
        seconds: all that took; the queries of an import before its rows come are about the same.
        resident: bytes that this process held after it.
        store_bytes: size of an embedded store's file; 0 for others.
    """

    schema: Schema
    nodes: Mapping[str, int]
    edges: Mapping[EdgeType, int]
    sample: KnowledgeGraph
    columns: Mapping[EdgeType, int]
    positive_share: float
    degrees: tuple[np.ndarray, np.ndarray]
    node_seconds: Mapping[str, float]
    edge_seconds: Mapping[EdgeType, float]
    seconds: float
    resident: int
    store_bytes: int = 0

    @property
    def graph_bytes(self) -> int:
        """Bytes of the finished graph, as :attr:`KnowledgeGraph.nbytes` will have them."""
        nodes = sum(n * _bytes_per_row(self.sample.node_table(t)) for t, n in self.nodes.items())
        return int(nodes + sum(n * 8 * (2 + self.columns[e]) for e, n in self.edges.items()))

    @property
    def largest_edges_bytes(self) -> int:
        """Bytes of the edges of the largest edge type."""
        return max((n * 8 * (2 + self.columns[e]) for e, n in self.edges.items()), default=0)

    def folder_bytes(self) -> int:
        """Bytes of the saved graph, from Parquet files of the samples."""
        nodes = sum(
            n * _parquet_bytes_per_row(self.sample.node_table(t)) for t, n in self.nodes.items()
        )
        return int(nodes + sum(n * self._edge_bytes(e, n) for e, n in self.edges.items()))

    def _edge_bytes(self, edge_type: EdgeType, count: int) -> float:
        """Of one edge in Parquet: sorted sources, targets anywhere, numbers of a few values."""
        rng, some = np.random.default_rng(0), min(count, _EDGES_TO_WRITE)
        num_sources = max(1, round(self.nodes[edge_type[0]] * some / max(count, 1)))
        table = {
            "source": np.sort(rng.integers(0, num_sources, some)),
            "target": rng.integers(0, max(self.nodes[edge_type[2]], 1), some),
        }
        if self.columns[edge_type]:
            table["weight"] = rng.integers(1, 6, some).astype(float)
        if self.columns[edge_type] > 1:
            table["time"] = rng.integers(0, 2**31, some)
        return _parquet_bytes_per_row(pa.table(table))


def outline_store(store: CypherStore, schema: Schema) -> Outline:
    """The outline of what :meth:`CypherStore.read` would read; counts and samples only.

    Raises:
        SchemaError: a type that the schema names is not in the store.
    """
    from kg.stores.values import WRITTEN_BACK

    start = time.perf_counter()
    schema, node_types, edge_types = store._plan(schema, {}, WRITTEN_BACK)
    labels = store._labels()
    nodes = {t: labels.get(t, 0) for t in node_types}
    tables, node_seconds = {}, {}
    for node_type in node_types:
        store._sample_nodes(node_type, 1)  # plans the query
        table, seconds = _timed(lambda t=node_type: store._sample_nodes(t, SAMPLE_NODES))
        gone = [n for n in table.column_names if n in WRITTEN_BACK]
        tables[node_type] = _with_named(table.drop_columns(gone), node_type, schema)
        node_seconds[node_type] = seconds / max(table.num_rows, 1)
    sample = KnowledgeGraph.from_tables(tables, {}, schema)
    edges, columns, edge_seconds = {}, {}, {}
    for edge_type in edge_types:
        edges[edge_type] = store._edges_at_most(edge_type)
        names = (schema.weight, schema.time)
        columns[edge_type] = sum(store._edge_has(edge_type, name) for name in names)
        rows, seconds = store._time_edges(edge_type, schema, sample.vocabularies, SAMPLE_EDGES)
        edge_seconds[edge_type] = seconds / max(rows, 1)
    u, i = f"(u:{store._quoted(schema.user)})", f"(i:{store._quoted(schema.item)})"
    r = f"-[r:{store._quoted(schema.interaction[1])}]->"
    degrees = [
        store.query(
            f"MATCH {one} WITH {name} LIMIT {SAMPLE_NODES} OPTIONAL MATCH {u}{r}{i} "
            f"WITH {name}, count(r) AS n RETURN n"
        )["n"].to_numpy()
        for one, name in ((u, "u"), (i, "i"))
    ]
    return Outline(
        sample.schema,
        nodes,
        edges,
        sample,
        columns,
        _positive_share(store._sample_edges(schema.interaction, SAMPLE_NODES), schema),
        (degrees[0], degrees[1]),
        node_seconds,
        edge_seconds,
        time.perf_counter() - start,
        resident_bytes(),
        Path(store.name).stat().st_size if Path(store.name).is_file() else 0,
    )


def _with_named(table: pa.Table, node_type: str, schema: Schema) -> pa.Table:
    """The sample with every property that the schema names: a rare one may be on other nodes."""
    roles = (schema.text, schema.numeric, schema.categorical)
    named = [name for role in roles for name in role.get(node_type, ())]
    for name in dict.fromkeys(named):
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(table.num_rows, pa.string()))
    return table


def outline_folder(folder: str | Path) -> Outline:
    """The outline of a saved graph, from the heads of its files and its interactions.

    Raises:
        SavedFileError: the folder is missing, incomplete, changed, or of a newer version.
    """
    return read_folder(folder, _outline_files, kind=GRAPH_KIND, version=GRAPH_VERSION)


def _outline_files(folder: Path) -> Outline:
    start = time.perf_counter()
    listed = json.loads((folder / "graph.json").read_text(encoding="utf-8"))
    schema = Schema.read(folder / "schema.toml")
    nodes, tables, node_seconds = {}, {}, {}
    for entry in listed["nodes"]:
        node_type, key = entry["type"], schema.key_of(entry["type"])
        nodes[node_type] = pq.ParquetFile(folder / entry["keys"]).metadata.num_rows
        keys, seconds = _timed(lambda e=entry: _head(folder / e["keys"]))
        properties, more = _timed(lambda e=entry: _head(folder / e["file"]))
        columns = {key: keys["key"]} | {n: properties[n] for n in properties.column_names}
        tables[node_type] = pa.table(columns)
        node_seconds[node_type] = (seconds + more) / max(keys.num_rows, 1)
    sample = KnowledgeGraph.from_tables(tables, {}, schema)
    edges: dict[EdgeType, int] = {}
    columns, rate = {}, 0.0
    share, degrees = 1.0, (np.zeros(0, np.int64), np.zeros(0, np.int64))
    for entry in listed["edges"]:
        source, relation, target = entry["type"]
        edge_type = (source, relation, target)
        file = pq.ParquetFile(folder / entry["file"])
        edges[edge_type] = file.metadata.num_rows
        columns[edge_type] = len(file.schema_arrow.names) - 2
        if edge_type == schema.interaction:
            table, seconds = _timed(file.read)
            ends = zip(("source_row", "target_row"), edge_type[::2], strict=True)
            counts = [np.bincount(table[c].to_numpy(), minlength=nodes[t]) for c, t in ends]
            degrees = (counts[0], counts[1])
            renamed = {schema.weight: table["weight"]} if "weight" in table.column_names else {}
            share = _positive_share(pa.table(renamed), schema)
            rate = float(seconds) / max(table.num_rows, 1)
    edge_seconds = dict.fromkeys(edges, rate)
    return Outline(
        sample.schema,
        nodes,
        edges,
        sample,
        columns,
        share,
        degrees,
        node_seconds,
        edge_seconds,
        time.perf_counter() - start,
        resident_bytes(),
    )


def resident_bytes() -> int:
    """Bytes of memory that this process holds; at its peak so far where only that can be told."""
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"VmRSS:\s+(\d+) kB", status.read_text())
        assert found is not None
        return int(found[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _head(path: Path) -> pa.Table:
    file = pq.ParquetFile(path)
    batches = list(_first(file.iter_batches(SAMPLE_NODES)))
    return pa.Table.from_batches(batches, file.schema_arrow)


def _first(batches: Any) -> Any:
    for batch in batches:
        yield batch
        return


def _positive_share(sample: pa.Table, schema: Schema) -> float:
    least = schema.positive_weight
    if least is None or schema.weight not in sample.column_names or not sample.num_rows:
        return 1.0
    return float(pc.mean(pc.greater_equal(sample[schema.weight], least).cast(pa.float64())).as_py())


def _bytes_per_row(table: pa.Table) -> float:
    return table.nbytes / max(table.num_rows, 1)


def _parquet_bytes_per_row(table: pa.Table) -> float:
    if not table.num_rows or not table.num_columns:
        return 0.0
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.tell() / table.num_rows


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    found = work()
    return found, time.perf_counter() - start
