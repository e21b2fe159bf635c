"""Which types are read from a store, and by which key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from kg.errors import SchemaError
from kg.schema import EdgeType, Schema
from kg.stores.inference import likely_key
from kg.stores.primitives import StorePrimitives
from kg.stores.protocol import Queries


class PlanningStore(StorePrimitives):
    """Completes a schema by what the store holds."""

    def _num_rows(
        self, node_types: Sequence[str], edge_types: Sequence[EdgeType], asked: Queries
    ) -> int | None:
        """How many nodes and edges there are to read, or a little less than that."""
        if asked:
            return None
        labels = self._labels()
        nodes = sum(labels.get(t, 0) for t in node_types)
        return nodes + sum(map(self._edges_at_most, edge_types))

    def _plan(
        self, schema: Schema, asked: Queries, exclude: Sequence[str]
    ) -> tuple[Schema, list[str], list[EdgeType]]:
        """The completed schema, the node types with a table of their own, the edge types."""
        labels = self._labels()
        if not labels and not asked:
            raise SchemaError(
                f"{self.name}: the store is empty, so the schema names node types that are not "
                "there; there are []. Check database=... or the path, or write a graph first"
            )
        queried = [e for e in asked if not isinstance(e, str)]
        from_edges = {end for e in queried for end in (e[0], e[2])}
        node_types = list(dict.fromkeys([*schema.node_types, *(t for t in asked if t in labels)]))
        node_types += [t for t in asked if isinstance(t, str) and t not in node_types]
        for node_type in node_types:
            if node_type not in labels and node_type not in asked and node_type not in from_edges:
                raise SchemaError(
                    f"{self.name}: the schema names the node type {node_type!r}, and no node has "
                    f"this label; there are {sorted(labels)}"
                )
        edge_types: list[EdgeType] = [schema.interaction, *schema.edge_types]
        edge_types += [e for e in queried if e not in edge_types]
        by_schema = [e for e in edge_types if e not in asked]
        if not schema.edge_types and not queried:
            edge_types, node_types = self._discover(schema, node_types, labels, exclude)
            if schema.interaction not in edge_types:
                raise self._no_such_edges(schema.interaction, edge_types)
        for edge_type in by_schema if schema.edge_types or queried else ():
            if not self._has_edges(edge_type):
                raise self._no_such_edges(edge_type, self._edge_types(list(labels)))
        tables = [t for t in node_types if t in labels or t in asked]
        unique = self._unique_properties()
        keys = {t: self._key(t, schema.key.get(t), unique) for t in tables if t not in asked}
        keys = {t: k for t, k in keys.items() if k != schema.key_of(t)}
        if keys:
            schema = replace(schema, key={**schema.key, **keys})
        return schema, tables, edge_types

    def _discover(
        self,
        schema: Schema,
        node_types: list[str],
        labels: Mapping[str, int],
        exclude: Sequence[str],
    ) -> tuple[list[EdgeType], list[str]]:
        """Every relation connected to the known node types, and the types it leads to."""
        extra = [t for t in labels if t not in node_types]
        extra = [t for t in extra if not self._overlaps(t, node_types)]
        found = self._edge_types([*(t for t in node_types if t in labels), *extra])
        found = {e: n for e, n in found.items() if e[1] not in exclude or e == schema.interaction}
        known, grew = set(node_types), True
        while grew:
            grew = False
            for source, _, target in found:
                if (source in known) != (target in known):
                    known |= {source, target}
                    grew = True
        edge_types = [e for e in found if e[0] in known]
        edge_types.sort(key=lambda e: (e != schema.interaction, e))
        return edge_types, [*node_types, *sorted(known - set(node_types))]

    def _no_such_edges(self, edge_type: EdgeType, there: Any) -> SchemaError:
        return SchemaError(
            f"{self.name}: the schema names the edge type {edge_type}, and there are no such "
            f"edges; there are {sorted(there)}"
        )

    def _key_of(self, node_type: str, named: str | None) -> str:
        """The key property of a label that may not exist.

        Raises:
            SchemaError: the label or the property does not exist.
        """
        labels = self._labels()
        if node_type not in labels:
            raise SchemaError(
                f"{self.name}: no node has the label {node_type!r}; there are {sorted(labels)}"
            )
        return self._key(node_type, named, self._unique_properties())

    def _key(self, node_type: str, named: str | None, unique: Mapping[str, tuple[str, ...]]) -> str:
        properties = self._property_names(node_type)
        if named is not None:
            if named not in properties and not self._has_property(node_type, named):
                raise SchemaError(
                    f"{self.name}: {node_type} has no property {named!r} to be its key; "
                    f"it has {properties}"
                )
            return named
        key = likely_key(properties, unique.get(node_type, ()))
        if key is None and self._has_property(node_type, "id"):
            return "id"
        if key is None:
            raise SchemaError(
                f"{self.name}: {node_type} has no property 'id' and no unique one to be its key; "
                f"name one of {properties} in Schema(key={{{node_type!r}: ...}})"
            )
        return key
