"""A graph from files of tables, CSV, Parquet or lines of JSON, which a TOML file tells apart.

The file is a schema, as :meth:`kg.schema.Schema.read` takes it, and says where the rows are::

    user = "User"
    item = "Song"
    interaction = ["User", "RATED", "Song"]
    weight = "stars"
    time = "date"

    [nodes.User]
    file = "users.csv"
    key = "user_id"

    [nodes.Song]
    file = "songs.csv"
    key = "song_id"
    text = ["title"]

    [[edges]]
    type = ["User", "RATED", "Song"]
    file = "ratings.csv"
    source = "user"
    target = "song"
    date_format = "%d.%m.%Y"

    [[edges]]
    type = ["Song", "HAS_GENRE", "Genre"]
    file = "songs.csv"
    source = "song_id"
    target = "genres"
    separator = "|"

Files are looked for beside the TOML file. ``file`` may be a pattern, ``ratings/*.parquet``.
"""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import datetime as dt
import glob
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from kg.errors import GraphError, SchemaError
from kg.graph import KnowledgeGraph
from kg.schema import EdgeType, Schema, to_edge_type
from kg.tables import MAX_ROWS_SHOWN, is_string, one_row_each, require_columns, to_table

_COMPRESSED = {".br", ".bz2", ".gz", ".lz4", ".zst"}

OF_CELLS = {"csv": ",", "csv.gz": ",", "tsv": "\t", "tsv.gz": "\t"}
"""How the names of files with cells of text end; and what separates these."""

TYPED = ("parquet", "jsonl", "ndjson")
"""How the names of files end that say of which type a value is."""

WHOLE_NUMBER = r"^(0|-?[1-9][0-9]{0,18})$"
"""What a whole number of 64 bits looks like if nothing is lost by taking it for one."""


@dataclass(frozen=True)
class TableFile:
    """Where the rows of one type are, and how to read them.

    Args:
        place: of the entry, for messages.
        file: path or pattern, seen from the folder of the TOML file.
        delimiter: of the cells of a line; ``None`` as the file's name says.
        columns: their names, in a CSV file whose first line does not tell them.
        missing: cells that say that there is no value, besides empty ones.
        encoding: of a CSV file.
    """

    place: str
    file: str
    delimiter: str | None = None
    columns: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    encoding: str = "utf8"

    def read(self, folder: Path, texts: Iterable[str]) -> pa.Table:
        """The rows of all its files, in the order of their names.

        Args:
            folder: of the TOML file.
            texts: columns of CSV files that are text, whatever they look like.
        """
        paths = self._paths(folder)
        if len({self._kind(path) in OF_CELLS for path in paths}) > 1:
            raise SchemaError(
                f"{self.place}: {self.file} names CSV files and others; give each kind an entry"
            )
        tables = [self._one(path, set(texts)) for path in paths]
        return _together(tables, f"{self.place}: files of {self.file}")

    def is_typed(self, folder: Path) -> bool:
        """Whether its files say of which type a column is."""
        return self._kind(self._paths(folder)[0]) not in OF_CELLS

    def _paths(self, folder: Path) -> list[Path]:
        if (folder / self.file).is_file():
            return [folder / self.file]
        names = sorted(glob.glob(self.file, root_dir=folder, recursive=True))
        if not (paths := [folder / name for name in names if (folder / name).is_file()]):
            raise GraphError(f"{self.place}: there is no file {self.file} in {folder.resolve()}")
        return paths

    def _kind(self, path: Path) -> str:
        for ending in (*OF_CELLS, *TYPED):
            if path.name.lower().endswith(f".{ending}"):
                return ending
        if self.delimiter is not None:
            return "csv"
        known = ", ".join(f".{ending}" for ending in (*OF_CELLS, *TYPED))
        raise SchemaError(
            f"{self.place}: {path.name} ends in none of {known}; rename it, or say "
            'delimiter = "," if its lines are rows with such cells'
        )

    def _one(self, path: Path, texts: set[str]) -> pa.Table:
        kind = self._kind(path)
        if kind in TYPED:
            for name in ("delimiter", "columns", "missing"):
                if getattr(self, name):
                    raise SchemaError(f"{self.place}: {name} is for CSV files; leave it out")
        try:
            if kind in OF_CELLS:
                read = self._cells(path, self.delimiter or OF_CELLS[kind], texts)
            else:
                read = _parquet(path) if kind == "parquet" else _lines_of_json(path)
        except (pa.ArrowException, LookupError, OSError, ValueError) as error:
            advice = ""
            if kind in OF_CELLS and not _is_in(path, self.encoding):
                advice = f'; it is no {self.encoding}: say encoding = "latin-1", or what it is in'
            raise GraphError(f"{self.place}: {path} cannot be read ({error}){advice}") from error
        return to_table(read, f"{self.place} {path.name}")

    def _cells(self, path: Path, delimiter: str, texts: set[str]) -> pa.Table:
        return csv.read_csv(
            path,
            csv.ReadOptions(column_names=list(self.columns) or None, encoding=self.encoding),
            csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            csv.ConvertOptions(
                column_types=dict.fromkeys(texts, pa.large_string()),
                null_values=["", *self.missing],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )


def _is_in(path: Path, encoding: str) -> bool:
    """Whether a file can be read in an encoding; ``True`` where that is not what is asked."""
    if path.suffix in _COMPRESSED:
        return True
    try:
        with path.open(encoding=encoding) as file:
            while file.read(2**20):
                pass
    except (LookupError, OSError):  # there is no such encoding, or no such file
        return True
    except UnicodeError:
        return False
    return True


def _parquet(path: Path) -> pa.Table:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    for at, name in enumerate(table.column_names):
        if pa.types.is_dictionary(kind := table[name].type):
            table = table.set_column(at, name, table[name].cast(kind.value_type))
    return table


def _lines_of_json(path: Path) -> dict[str, list[Any]]:
    """Columns as JSON has them; Arrow's own reader takes some texts for dates."""
    rows: list[dict[str, Any]] = []
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number} is no JSON: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is no object of names and values: {line[:40]!r}")
            rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


_OF_FILE = tuple(f.name for f in fields(TableFile) if f.name != "place")
_OF_EDGES = ("source", "target", "separator", "weight", "time", "date_format")
_FLAGS = ("optional", "count")


@dataclass(frozen=True)
class EdgeFile:
    """Where the edges of one type are.

    Args:
        type: of the edges.
        rows: their files.
        source: column of the source's key.
        target: column of the target's key.
        separator: of the keys in a cell of the target, if it may have several, or none.
        optional: whether a row without a target is no edge, not a fault.
        weight: column of the weight; interactions have the one that the schema names, if it is
            there, other edges none.
        time: column of the time, likewise.
        date_format: of times that are text, as ``datetime.strptime`` has it; those that are as in
            ISO 8601 need none.
        count: whether rows are events, and how many a pair has is its weight; of interactions.
    """

    type: EdgeType
    rows: TableFile
    source: str = "source"
    target: str = "target"
    separator: str | None = None
    optional: bool = False
    weight: str | None = None
    time: str | None = None
    date_format: str | None = None
    count: bool = False

    def table(self, folder: Path, schema: Schema) -> pa.Table:
        """The edges, with the columns ``source`` and ``target``."""
        is_main, named = self.type == schema.interaction, {}
        for role, given in (("weight", self.weight), ("time", self.time)):
            if given is not None or is_main:
                named[getattr(schema, role)] = given or getattr(schema, role)
        date = [] if self.date_format is None else [named.get(schema.time, "")]
        found = self.rows.read(folder, [self.source, self.target, *date])
        needed = [self.source, self.target, *filter(None, (self.weight, self.time))]
        require_columns(found, needed, self.rows.place, "say source = and target = in the entry")
        columns = {"source": found[self.source], "target": found[self.target]}
        columns |= {name: found[c] for name, c in named.items() if c in found.column_names}
        if is_main:  # the graph tells which columns of interactions are not used
            used = {self.source, self.target, *named.values(), *columns}
            columns |= {n: found[n] for n in found.column_names if n not in used}
        if schema.time in columns:
            columns[schema.time] = self._times(columns[schema.time], named[schema.time])
        table = self._apart(one_row_each(pa.table(columns), "source"))
        if self.rows.is_typed(folder):
            return table
        return _with_numbers(_with_numbers(table, "source"), "target")

    def _times(self, column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
        """Times that are text as points in time, UTC; others as they are."""
        if not is_string(column.type):
            if self.date_format is not None:
                raise SchemaError(
                    f"{self.rows.place}: date_format is for text, and {name!r} is {column.type}; "
                    "leave it out"
                )
            return column
        encoded = column.combine_chunks().dictionary_encode()
        times = [self._time(value, name) for value in encoded.dictionary.to_pylist()]
        return pa.chunked_array([pa.array(times, pa.timestamp("us")).take(encoded.indices)])

    def _time(self, value: str, name: str) -> dt.datetime:
        try:
            if self.date_format is None:
                found = dt.datetime.fromisoformat(value.strip())
            else:
                found = dt.datetime.strptime(value.strip(), self.date_format)
        except ValueError as error:
            wanted = "as in ISO 8601" if self.date_format is None else f"like {self.date_format!r}"
            raise GraphError(
                f"{self.rows.place}: {name} {value!r} is no time {wanted} ({error}); say "
                'date_format = "%d.%m.%Y" or the like in the entry'
            ) from error
        return found if found.tzinfo is None else found.astimezone(dt.UTC).replace(tzinfo=None)

    def _apart(self, table: pa.Table) -> pa.Table:
        """An edge for each target in a cell."""
        target = table["target"]
        if self.separator is not None:
            if not is_string(target.type):
                told = f"separator is for text, and {self.target!r} is {target.type}"
                raise SchemaError(f"{self.rows.place}: {told}; leave it out")
            parts = pc.split_pattern(target, self.separator)
            table = one_row_each(table.set_column(1, "target", parts), "target")
            trimmed = pc.utf8_trim_whitespace(table["target"])
            return table.set_column(1, "target", trimmed).filter(pc.not_equal(trimmed, ""))
        if pa.types.is_list(target.type) or pa.types.is_large_list(target.type):
            table = one_row_each(table, "target")
            return table.filter(table["target"].is_valid())
        if self.optional:
            return table.filter(target.is_valid())
        if target.null_count:
            rows = np.flatnonzero(target.is_null().to_numpy())[:MAX_ROWS_SHOWN].tolist()
            raise GraphError(
                f"{self.rows.place}: {target.null_count} of {len(target)} rows have no "
                f"{self.target!r}, such as {rows}; fill them, or say optional = true if such a row "
                "is no edge"
            )
        return table


@dataclass(frozen=True)
class TableFiles:
    """What a TOML file says of a graph: what is what, and where.

    Args:
        folder: of the TOML file.
        schema: the roles of types and properties.
        nodes: files by node type; types without any come from the edges.
        edges: files of edges; several of one type are put together.
    """

    folder: Path
    schema: Schema
    nodes: Mapping[str, TableFile]
    edges: tuple[EdgeFile, ...]

    @classmethod
    def read(cls, path: str | Path) -> TableFiles:
        """What the file at ``path`` says.

        Raises:
            SchemaError: it is no TOML, an entry is unknown or missing, or the schema is at fault.
        """
        path = Path(path)
        try:
            values = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
            nodes, edges = values.get("nodes", {}), values.pop("edges", [])
            if not isinstance(nodes, dict):
                raise SchemaError(f"expected [nodes.TYPE] entries, got nodes = {nodes!r}")
            if not isinstance(edges, list) or not edges:
                raise SchemaError("expected [[edges]] with type, file, source and target; none is")
            files = {
                node_type: _table_file(f"[nodes.{node_type}]", _taken(entry, _OF_FILE))
                for node_type, entry in nodes.items()
                if isinstance(entry, dict) and "file" in entry
            }
            schema = Schema.from_dict(values)
            found = tuple(_edge_file(f"[[edges]] {n}", e) for n, e in enumerate(edges, 1))
            _require_same_count(found, schema)
            return cls(path.parent, schema, files, found)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, SchemaError) as error:
            raise SchemaError(f"{path}: {error}") from error

    def graph(self, *, on_dangling: str = "error") -> KnowledgeGraph:
        """The graph; see :func:`read_tables`."""
        nodes = {node_type: self._nodes(node_type) for node_type in self.nodes}
        parts: dict[EdgeType, list[pa.Table]] = {}
        for one in self.edges:
            parts.setdefault(one.type, []).append(one.table(self.folder, self.schema))
        text = _with_text_keys(nodes, parts, self.schema)
        for node_type in text & nodes.keys():
            nodes[node_type] = _as_text(nodes[node_type], self.schema.key_of(node_type))
        edges: dict[EdgeType, pa.Table] = {}
        for edge_type, tables in parts.items():
            for end, node_type in (("source", edge_type[0]), ("target", edge_type[2])):
                tables = [_as_text(table, end) if node_type in text else table for table in tables]
            edges[edge_type] = _together(tables, f"files of {edge_type} edges")
        graph = KnowledgeGraph.from_tables(nodes, edges, self.schema, on_dangling=on_dangling)
        if any(file.count for file in self.edges):
            graph = graph.with_interactions_counted()
        return graph

    def _nodes(self, node_type: str) -> pa.Table:
        schema, file = self.schema, self.nodes[node_type]
        key = schema.key_of(node_type)
        named = (*schema.text.get(node_type, ()), *schema.categorical.get(node_type, ()))
        table = file.read(self.folder, (key, *named))
        require_columns(table, [key], file.place, f'say key = "..." in {file.place}')
        return table if file.is_typed(self.folder) else _with_numbers(table, key)


def read_tables(path: str | Path, *, on_dangling: str = "error") -> KnowledgeGraph:
    """The graph in the files that a TOML file tells of; see the top of this module.

    Entries of ``[nodes.TYPE]`` beside those of a schema, and of ``[[edges]]``: see
    :class:`TableFile` and :class:`EdgeFile`. Keys of a type are numbers if they are whole numbers
    in each of its files (no ``007``), else text. In CSV files, columns of text and categories are
    text, and an empty cell has no value.

    Args:
        path: of the TOML file.
        on_dangling: as in :meth:`kg.graph.KnowledgeGraph.from_tables`.

    Raises:
        SchemaError: the TOML file is at fault.
        GraphError: a file is absent, is of another kind, or its rows make no graph.
    """
    return TableFiles.read(path).graph(on_dangling=on_dangling)


def _with_text_keys(
    nodes: Mapping[str, pa.Table], edges: Mapping[EdgeType, list[pa.Table]], schema: Schema
) -> set[str]:
    """Node types whose keys are text in one of the files."""
    keys = [(node_type, table[schema.key_of(node_type)]) for node_type, table in nodes.items()]
    for (source, _, target), tables in edges.items():
        keys += [(source, table["source"]) for table in tables]
        keys += [(target, table["target"]) for table in tables]
    return {node_type for node_type, column in keys if is_string(column.type)}


def _with_numbers(table: pa.Table, name: str) -> pa.Table:
    """The table with text that is whole numbers throughout as int64."""
    column = table[name]
    if not is_string(column.type):
        return table
    if not pc.all(pc.match_substring_regex(column, WHOLE_NUMBER), min_count=0).as_py():
        return table
    try:
        numbers = column.cast(pa.int64())
    except pa.ArrowInvalid:  # more than 64 bits
        return table
    return table.set_column(table.column_names.index(name), name, numbers)


def _as_text(table: pa.Table, name: str) -> pa.Table:
    column = table[name]
    if not pa.types.is_integer(column.type):
        return table
    text = column.cast(pa.large_string())
    return table.set_column(table.column_names.index(name), name, text)


def _together(tables: list[pa.Table], what: str) -> pa.Table:
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise GraphError(f"{what}: their columns are of different types ({error})") from error


def _taken(entry: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Those entries, which are taken out."""
    return {name: entry.pop(name) for name in names if name in entry}


def _table_file(place: str, entry: Mapping[str, Any]) -> TableFile:
    given: dict[str, Any] = {}
    for name, value in entry.items():
        several = name in ("columns", "missing")
        if several and isinstance(value, list) and all(isinstance(one, str) for one in value):
            given[name] = tuple(value)
        elif not several and isinstance(value, str) and value:
            given[name] = value
        else:
            expected = "a list of texts" if several else "a text that is not empty"
            raise SchemaError(f"{place}: {name} must be {expected}, got {value!r}")
    delimiter = given.get("delimiter", ",")
    if len(delimiter) != 1 or not delimiter.isascii():
        raise SchemaError(f"{place}: delimiter must be one ASCII character, got {delimiter!r}")
    if "file" not in given:
        raise SchemaError(f"{place}: expected file = with a path or pattern, got {sorted(entry)}")
    return TableFile(place, **given)


def _edge_file(place: str, entry: Any) -> EdgeFile:
    if not isinstance(entry, dict):
        raise SchemaError(f"{place} must have type, file, source and target, got {entry!r}")
    left = dict(entry)
    rows = _table_file(place, _taken(left, _OF_FILE))
    kind = left.pop("type", None)
    flags = {name: left.pop(name, False) for name in _FLAGS}
    texts = _taken(left, _OF_EDGES)
    if left:
        known = sorted({*_OF_FILE, *_OF_EDGES, *_FLAGS, "type"})
        raise SchemaError(f"{place}: unknown entry {min(left)!r}; known: {known}")
    for name, value in texts.items():
        if not isinstance(value, str) or not value:
            raise SchemaError(f"{place}: {name} must be a text that is not empty, got {value!r}")
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise SchemaError(f"{place}: {name} must be true or false, got {value!r}")
    return EdgeFile(to_edge_type(kind, f"{place}: type"), rows, **flags, **texts)


def _require_same_count(files: Sequence[EdgeFile], schema: Schema) -> None:
    """Raise unless all interactions are counted, or none, and nothing else is."""
    of_interactions = {file.count for file in files if file.type == schema.interaction}
    for file in files:
        if file.count and file.type != schema.interaction:
            raise SchemaError(
                f"{file.rows.place}: count is for interactions, {schema.interaction}; leave it out"
            )
    if len(of_interactions) > 1:
        raise SchemaError(
            f"some entries of {schema.interaction} say count = true and some do not; a pair's "
            "events are counted over all of its files, so say it in each"
        )
