"""Keys in row order, and one vector per key."""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kg.errors import AlignmentError, DuplicateKeyError, UnknownNodeError
from kg.growing import Holders, followed_by, growing, taken
from kg.tables import key_array, require_columns, require_list

Key = int | str
"""A business key: the user's own, never a database's internal id."""

_CHECK_OR_ADD = "check the key, or add the node first"


class _Rows(dict[Key, int]):
    """Row of every key, shared by vocabularies that grew out of each other."""

    def __init__(self, rows: Mapping[Key, int] | None = None) -> None:
        super().__init__(rows or {})
        self.holders = Holders()


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The business keys of one node type, in row order.

    Args:
        node_type: what the keys identify.
        keys: Arrow array or chunked array of int64 or strings, or anything that turns into one.

    Raises:
        DuplicateKeyError: a key occurs twice.
        GraphError: a key is null, or the keys are neither all int nor all strings.
    """

    node_type: str
    keys: pa.ChunkedArray
    _rows: _Rows = field(default_factory=_Rows, repr=False)

    def __post_init__(self) -> None:
        if self._rows:
            return  # grown out of another one, and checked there
        keys = key_array(self.keys, self.node_type)
        object.__setattr__(self, "keys", keys)
        if len(keys) > 1 and (num_distinct := pc.count_distinct(keys).as_py()) != len(keys):
            counts = pc.value_counts(keys.combine_chunks())
            first = next(c["values"] for c in counts.to_pylist() if c["counts"] > 1)
            rows = np.flatnonzero(pc.equal(keys, first).to_numpy())[:5].tolist()
            raise DuplicateKeyError(
                f"{self.node_type}: {len(keys) - num_distinct} keys occur more than once, for "
                f"example {first!r} in rows {rows}; keep one row per key"
            )

    def __repr__(self) -> str:
        return f"Vocabulary({self.node_type!r}, keys: {len(self):,} {self._kind})"

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Key]:
        return iter(self.keys.to_pylist())

    def __getitem__(self, row: int) -> Key:
        return self.keys[row].as_py()

    def __contains__(self, key: Key) -> bool:
        return self._find(key) >= 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Vocabulary):
            return NotImplemented
        return self.node_type == other.node_type and self.keys.equals(other.keys)

    __hash__ = None  # type: ignore[assignment]

    @property
    def is_int(self) -> bool:
        """Whether the keys are integers; otherwise they are strings."""
        return pa.types.is_integer(self.keys.type)

    def row(self, key: Key) -> int:
        """The row of one key.

        Raises:
            UnknownNodeError: the key is not here.
        """
        if (row := self._find(key)) < 0:
            raise self._unknown(key)
        return row

    def rows(self, keys: Any, *, missing: str = "error", advice: str = _CHECK_OR_ADD) -> np.ndarray:
        """The rows of many keys, int64 ``[len(keys)]``.

        Args:
            keys: a sequence or Arrow array of keys of this vocabulary's type.
            missing: ``"error"``, or ``"mark"`` to get -1 for a key that is not here.
            advice: what the error says about the next step.

        Raises:
            UnknownNodeError: a key is not here and ``missing`` is ``"error"``.
        """
        require_list(keys, f"expected a list of {self.node_type} keys")
        if len(keys) <= 64 or isinstance(keys, list | tuple):
            listed = keys.to_pylist() if isinstance(keys, pa.Array | pa.ChunkedArray) else keys
            found = self._find_all(listed)
        else:
            array = key_array(keys, self.node_type)
            if array.type != self.keys.type:
                found = np.full(len(array), -1, np.int64)
            else:
                at = pc.index_in(array, value_set=self.keys.combine_chunks())
                found = pc.fill_null(at, -1).to_numpy().astype(np.int64)
        if missing == "error" and (found < 0).any():
            key = list(keys)[int(np.argmax(found < 0))]
            raise self._unknown(key.as_py() if isinstance(key, pa.Scalar) else key, advice)
        return found

    def take(self, rows: np.ndarray) -> Vocabulary:
        """The vocabulary of some rows, in the order given."""
        return Vocabulary(self.node_type, taken(self.keys, np.asarray(rows, np.int64)))

    def extend(self, keys: Any) -> Vocabulary:
        """This vocabulary followed by further keys, or by another one's.

        Rows that are here keep their number.

        Raises:
            DuplicateKeyError: a key is here already or comes twice.
        """
        more = keys if isinstance(keys, Vocabulary) else Vocabulary(self.node_type, keys)
        if len(more) == 0:
            return self
        if len(self) == 0:
            return more
        if more.keys.type != self.keys.type:
            raise AlignmentError(
                f"{self.node_type}: keys are {self._kind}, the new ones are {more._kind} "
                f"(for example {more[0]!r}); convert them first"
            )
        new = more.keys.to_pylist()
        known = [k for k in new if k in self]
        if known:
            raise DuplicateKeyError(f"{self.node_type}: {known[0]!r} is there already")
        # The index is shared by everyone who grew out of the same keys; a row beyond a
        # vocabulary's own length is not its own. Only the longest left may grow it in place.
        with growing:
            rows = self._index()
            if Holders.of(self) is None:
                rows.holders.add(self, len(self))
            if rows.holders.longest() == len(self):
                while len(rows) > len(self):  # of vocabularies that are gone
                    rows.popitem()
            else:
                rows = _Rows({k: r for k, r in rows.items() if r < len(self)})
            rows.update(zip(new, range(len(self), len(self) + len(new)), strict=True))
            longer = Vocabulary(self.node_type, followed_by(self.keys, more.keys), rows)
            rows.holders.add(longer, len(longer))
        return longer

    @property
    def _kind(self) -> str:
        return "int" if self.is_int else "str"

    def _index(self) -> _Rows:
        if not self._rows and len(self):
            self._rows.update(zip(self.keys.to_pylist(), range(len(self)), strict=True))
        return self._rows

    def _find(self, key: Any) -> int:
        if isinstance(key, np.generic):
            key = key.item()
        if not isinstance(key, int if self.is_int else str) or isinstance(key, bool):
            return -1
        row = self._index().get(key, -1)
        return row if row < len(self) else -1

    def _find_all(self, keys: Sequence[Any]) -> np.ndarray:
        keys = list(keys)
        if set(map(type, keys)) <= {int if self.is_int else str}:
            get, size = self._index().get, len(self)
            found = [get(key, -1) for key in keys]
            return np.array([row if row < size else -1 for row in found], np.int64)
        return np.array([self._find(key) for key in keys], np.int64)

    def _unknown(self, key: Any, advice: str = _CHECK_OR_ADD) -> UnknownNodeError:
        if not isinstance(key, int | np.integer if self.is_int else str):
            advice = f"keys of {self.node_type} are {self._kind}, this is {type(key).__name__}"
        return UnknownNodeError(
            f"{self.node_type} {key!r} is not among the {len(self)} known; {advice}"
        )


@dataclass(frozen=True, eq=False)
class NodeEmbeddings:
    """One vector per node of one type, whoever made it: a text encoder or a GNN.

    Args:
        nodes: keys in row order.
        matrix: float32 ``[num_nodes, dim]``, any length of row.

    Raises:
        AlignmentError: ``matrix`` has not exactly one row per key.
    """

    nodes: Vocabulary
    matrix: np.ndarray

    def __post_init__(self) -> None:
        matrix = np.asarray(self.matrix, dtype=np.float32)
        if matrix.ndim != 2 or len(matrix) != len(self.nodes):
            expected, got = f"[{len(self.nodes)}, dim]", list(matrix.shape)
            raise AlignmentError(f"{self.node_type} embeddings: expected {expected}, got {got}")
        object.__setattr__(self, "matrix", matrix)

    def __repr__(self) -> str:
        return f"NodeEmbeddings({self.node_type!r}, nodes: {len(self):,}, dim: {self.dim})"

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def node_type(self) -> str:
        """The type of node that the rows belong to."""
        return self.nodes.node_type

    @property
    def dim(self) -> int:
        """Length of each vector."""
        return self.matrix.shape[1]

    def of(self, keys: Sequence[Key]) -> np.ndarray:
        """The vectors of these keys, float32 ``[len(keys), dim]``.

        Raises:
            UnknownNodeError: a key has no vector.
        """
        return self.matrix[self.nodes.rows(keys)]

    @classmethod
    def from_table(cls, node_type: str, table: Any, column: str = "embedding") -> NodeEmbeddings:
        """What :meth:`to_table` gives, or any table like it.

        Args:
            node_type: of the nodes.
            table: Arrow table with the keys as ``id`` and lists of floats, all of one length.
            column: of the lists.

        Raises:
            MissingColumnError: the table lacks a column.
            AlignmentError: the lists are of different lengths, missing, or none of numbers.
        """
        require_columns(table, ("id", column), f"vectors of {node_type}")
        lists = table[column].combine_chunks()
        what = f"vectors of {node_type}: expected lists of floats, all of one length, in {column!r}"
        if not (pa.types.is_list(lists.type) or pa.types.is_fixed_size_list(lists.type)):
            raise AlignmentError(f"{what}, got {lists.type}")
        if lists.null_count or lists.flatten().null_count:
            raise AlignmentError(f"{what}, got nulls; leave out nodes that have no vector")
        lengths = pc.unique(pc.list_value_length(lists)).to_pylist()
        if len(lengths) > 1:
            raise AlignmentError(f"{what}, got lengths {sorted(lengths)[:5]}")
        flat = lists.flatten()
        if not (pa.types.is_floating(flat.type) or pa.types.is_integer(flat.type)):
            raise AlignmentError(f"{what}, got {lists.type}")
        matrix = flat.to_numpy(zero_copy_only=False).astype(np.float32)
        nodes = Vocabulary(node_type, table["id"])
        return cls(nodes, matrix.reshape(len(nodes), lengths[0] if lengths else 0))

    def to_table(self, column: str = "embedding") -> pa.Table:
        """An Arrow table with the keys as ``id`` and the vectors as a fixed-size list column."""
        flat = pa.array(self.matrix.reshape(-1), pa.float32())
        vectors = pa.FixedSizeListArray.from_arrays(flat, max(self.dim, 1))
        return pa.table({"id": self.nodes.keys, column: vectors})
