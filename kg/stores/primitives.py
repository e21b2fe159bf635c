"""What a store has to supply; everything else is made of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa

from kg.graph import Edges, KnowledgeGraph
from kg.schema import EdgeType, Schema
from kg.stores.lists import Lists
from kg.stores.names import quoted
from kg.stores.triples import Triples
from kg.stores.values import Comparison, NodeValues
from kg.vectors import Vocabulary


@dataclass(frozen=True)
class NodesRead:
    """A node table in key order and, where the store has such, its own number of every row."""

    table: pa.Table
    handles: np.ndarray | None = None


class StorePrimitives(ABC):
    """Small questions and orders, which each store puts into its own Cypher."""

    name: str

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def query(self, cypher: str, **params: Any) -> pa.Table:
        """The result of one query of your own, a column per returned name.

        Args:
            cypher: the query; may write.
            **params: values for ``$name`` in it.

        Raises:
            StoreError: with the store's own message.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the store; it may be used again and opens anew then."""

    def _quoted(self, name: str) -> str:
        """A name in this store's Cypher."""
        return quoted(name)

    @abstractmethod
    def _query_for_read(self, cypher: str) -> pa.Table: ...

    @abstractmethod
    def _triples(self, cypher: str) -> Triples: ...

    @abstractmethod
    def _labels(self) -> dict[str, int]:
        """Number of nodes of every label that a node has."""

    @abstractmethod
    def _unique_properties(self) -> dict[str, tuple[str, ...]]:
        """Properties with a uniqueness constraint of their own, by label."""

    @abstractmethod
    def _edge_types(self, labels: Sequence[str]) -> dict[EdgeType, int]:
        """Edge types among labels, with at most so many edges each."""

    @abstractmethod
    def _has_edges(self, edge_type: EdgeType) -> bool:
        """Whether the store knows edges of this type."""

    @abstractmethod
    def _overlaps(self, label: str, others: Sequence[str]) -> bool:
        """Whether a node with this label also has one of the others."""

    @abstractmethod
    def _has_property(self, node_type: str, property: str) -> bool: ...

    @abstractmethod
    def _property_names(self, node_type: str) -> list[str]:
        """Names of the properties of nodes with this label, or of some of the nodes."""

    @abstractmethod
    def _is_unique(self, node_type: str, property: str) -> bool:
        """Whether every node has the property and no two have it alike."""

    @abstractmethod
    def _sample_nodes(self, node_type: str, limit: int) -> pa.Table: ...

    @abstractmethod
    def _sample_edges(self, edge_type: EdgeType, limit: int) -> pa.Table: ...

    @abstractmethod
    def _read_nodes(
        self, node_type: str, key: str, exclude: Sequence[str], bar: Any
    ) -> NodesRead: ...

    @abstractmethod
    def _read_edges(
        self,
        edge_type: EdgeType,
        schema: Schema,
        vocabularies: Mapping[str, Vocabulary],
        handles: Mapping[str, np.ndarray],
        on_dangling: str,
        bar: Any,
    ) -> tuple[Edges, int]:
        """The edges of one type, and how many were left out."""

    @abstractmethod
    def _time_edges(
        self,
        edge_type: EdgeType,
        schema: Schema,
        vocabularies: Mapping[str, Vocabulary],
        limit: int,
    ) -> tuple[int, float]:
        """Read some edges as :meth:`_read_edges` does: how many came, and in how many seconds.

        Args:
            edge_type: which edges.
            schema: with weight and time.
            vocabularies: some nodes of each type, whose edges may be those read.
            limit: at most about so many.
        """

    @abstractmethod
    def _edge_has(self, edge_type: EdgeType, name: str) -> bool:
        """Whether an edge of this type has the property."""

    @abstractmethod
    def _nodes_since(
        self, node_type: str, key: str, exclude: Sequence[str], updated_at: str, since: Any
    ) -> pa.Table:
        """Nodes with all their properties that changed at this time or later."""

    @abstractmethod
    def _edges_since(
        self,
        edge_type: EdgeType,
        keys: tuple[str, str],
        names: Sequence[str],
        updated_at: str,
        since: Any,
    ) -> pa.Table:
        """Edges likewise: ``source``, ``target``, these properties, ``updated_at``."""

    @abstractmethod
    def _latest(self, what: str | EdgeType, updated_at: str) -> Any:
        """The largest value of a property of nodes or edges; ``None`` where none has it."""

    @abstractmethod
    def _edges_at_most(self, edge_type: EdgeType) -> int:
        """So many edges at most, told without a walk over them."""

    @abstractmethod
    def _count_relation(self, relation: str) -> int:
        """Edges of a relation, whatever its ends."""

    @abstractmethod
    def _count_edges(self, edge_type: EdgeType) -> int: ...

    @abstractmethod
    def _write_nodes(
        self, node_type: str, key: str, table: pa.Table, batch_size: int, bar: Any
    ) -> None: ...

    @abstractmethod
    def _write_edges(
        self, edge_type: EdgeType, graph: KnowledgeGraph, batch_size: int, bar: Any
    ) -> None: ...

    @abstractmethod
    def _compare_values(self, values: NodeValues, batch_size: int) -> Comparison: ...

    @abstractmethod
    def _prepare_values(
        self, values: NodeValues, found: Comparison, index: bool, dry_run: bool
    ) -> list[str]:
        """Make room: a unique key, columns, no vectors of another length; what was done."""

    @abstractmethod
    def _write_values(self, values: NodeValues, batch_size: int, bar: Any) -> None:
        """Write values whose keys all have a node."""

    @abstractmethod
    def _index(self, node_type: str, property: str, dim: int) -> None: ...

    @abstractmethod
    def _read_lists(self, lists: Lists, users: list[Any]) -> pa.Table:
        """The relations of some users: ``source``, ``target`` and the properties."""

    @abstractmethod
    def _replace_lists(self, lists: Lists, users: list[Any], table: pa.Table) -> None:
        """Put these relations in place of all that these users have, in one transaction."""

    @abstractmethod
    def _known_keys(self, node_type: str, key: str, keys: list[Any]) -> list[Any]:
        """Those of the keys that have a node."""

    @abstractmethod
    def _read_vectors(self, node_type: str, property: str, key: str) -> pa.Table:
        """Columns ``key`` and ``vector`` of the nodes that have one."""

    def _as_stored_keys(self, node_type: str, keys: list[Any]) -> list[Any]:
        """Keys as the store holds them, where a query may have changed their type."""
        return keys
