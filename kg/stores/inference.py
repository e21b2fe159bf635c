"""A schema from what a store holds: which properties are keys, texts, numbers, names."""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from kg.errors import SchemaError
from kg.schema import EdgeType, Schema
from kg.tables import is_string

USER_NAMES = ("user", "customer", "member", "listener", "reader", "viewer", "reviewer", "account")
WEIGHT_NAMES = ("rating", "weight", "score", "stars", "count", "plays", "play_count", "value")
TIME_NAMES = ("timestamp", "time", "date", "created_at", "rated_at", "at", "since")
LONG_TEXT = 40
"""Mean length in characters from which strings are text, however few differ."""
MOSTLY_DISTINCT = 0.5
"""Share of distinct values from which strings are text."""


@dataclass(frozen=True)
class NodeTypeSeen:
    """Nodes of one label: how many, which properties are declared unique, some of them."""

    count: int
    unique: tuple[str, ...]
    sample: pa.Table


@dataclass(frozen=True)
class EdgeTypeSeen:
    """Edges of one type: how many at most, and properties of some of them."""

    count: int
    sample: pa.Table


@dataclass(frozen=True)
class StoreContents:
    """What a store holds, in outline."""

    nodes: Mapping[str, NodeTypeSeen]
    edges: Mapping[EdgeType, EdgeTypeSeen]

    def without(self, names: Sequence[str]) -> StoreContents:
        """The same without properties and relations of these names."""
        nodes = {}
        for label, seen in self.nodes.items():
            gone = [n for n in seen.sample.column_names if n in names]
            nodes[label] = replace(seen, sample=seen.sample.drop_columns(gone)) if gone else seen
        return StoreContents(nodes, {e: s for e, s in self.edges.items() if e[1] not in names})

    def to_text(self) -> str:
        """What there is and what it looks like, for someone who is about to write a schema."""
        lines = []
        for label, seen in self.nodes.items():
            lines.append(f"{label}: {seen.count:,} nodes")
            for name in seen.sample.column_names:
                column = seen.sample[name]
                said = [str(column.type)]
                if name in seen.unique:
                    said.append("unique, so a key")
                elif name == "id" or _could_be_key(column):
                    said.append("different on all nodes looked at, perhaps a key")
                said += [role] if (role := _role(name, column)) else []
                if column.null_count:
                    said.append(f"missing on {column.null_count} of {len(column)}")
                if len(present := column.drop_null()):
                    said.append(f"e.g. {present[0].as_py()!r:.40}")
                lines.append(f"  {name}: {', '.join(said)}")
        for (source, relation, target), seen in self.edges.items():
            names = ", ".join(f"{f.name} ({f.type})" for f in seen.sample.schema)
            lines.append(f"({source})-[{relation}]->({target}): {seen.count:,} at most; {names}")
        return "\n".join(line.rstrip("; ") for line in lines)


def likely_key(properties: Sequence[str], unique: Sequence[str]) -> str | None:
    """The property that a store declares unique, ``id`` among several, else ``id`` if there."""
    if "id" in unique or (not unique and "id" in properties):
        return "id"
    return sorted(unique)[0] if unique else None


def schema_of(
    contents: StoreContents,
    user: str | None,
    item: str | None,
    interaction: str | EdgeType | None,
    is_unique: Callable[[str, str], bool],
) -> Schema:
    """The schema of a store; see :meth:`kg.stores.base.CypherStore.infer_schema`.

    Raises:
        SchemaError: a named type does not exist, none suits, or a type has no key.
    """
    chosen = _interaction(contents, user, item, interaction)
    user, _, item = chosen
    edge_types, node_types = _connected(contents, {user, item})
    key: dict[str, str] = {}
    roles: dict[str, dict[str, list[str]]] = {"text": {}, "numeric": {}, "categorical": {}}
    for node_type in sorted(node_types, key=lambda t: (t != user, t != item, t)):
        seen = contents.nodes[node_type]
        key[node_type] = _key(node_type, seen, is_unique)
        for name in seen.sample.column_names:
            if name != key[node_type] and (role := _role(name, seen.sample[name])):
                roles[role].setdefault(node_type, []).append(name)
    sample = contents.edges[chosen].sample
    return Schema(
        user=user,
        item=item,
        interaction=chosen,
        key={t: k for t, k in key.items() if k != "id"},
        edge_types=tuple(e for e in sorted(edge_types) if e != chosen),
        weight=_edge_property(sample, WEIGHT_NAMES, _is_number) or "weight",
        time=_edge_property(sample, TIME_NAMES, _is_time) or "time",
        text=_frozen(roles["text"]),
        numeric=_frozen(roles["numeric"]),
        categorical=_frozen(roles["categorical"]),
    )


def _frozen(names: dict[str, list[str]]) -> dict[str, tuple[str, ...]]:
    return {node_type: tuple(properties) for node_type, properties in names.items()}


def _interaction(
    contents: StoreContents,
    user: str | None,
    item: str | None,
    interaction: str | EdgeType | None,
) -> EdgeType:
    """The edge type from users to items."""
    labels = sorted(contents.nodes)
    if isinstance(interaction, list | tuple):
        source, relation, target = interaction
        user, item, interaction = user or source, item or target, relation
    for role, label in (("user", user), ("item", item)):
        if label is not None and label not in contents.nodes:
            raise SchemaError(f"no node has the label {label!r} ({role}); there are {labels}")
    if user is None:
        user = next((t for n in USER_NAMES for t in labels if n == t.lower()), None) or next(
            (t for n in USER_NAMES for t in labels if n in t.lower()), None
        )
    if user is None and interaction is None:
        raise SchemaError(f"none of the labels {labels} looks like users; name it: user=...")
    fit = {
        edge_type: seen.count
        for edge_type, seen in contents.edges.items()
        if user in (None, edge_type[0])
        and item in (None, edge_type[2])
        and interaction in (None, edge_type[1])
        and edge_type[0] != edge_type[2]
    }
    if not fit:
        wanted = (user or "?", interaction or "?", item or "?")
        raise SchemaError(
            f"there are no edges {wanted} from users to items; there are {sorted(contents.edges)}"
        )
    return max(sorted(fit), key=fit.__getitem__)


def _connected(contents: StoreContents, known: set[str]) -> tuple[set[EdgeType], set[str]]:
    """Edge types that hang together with the known node types, and all their node types."""
    while True:
        edge_types = {e for e in contents.edges if e[0] in known or e[2] in known}
        grown = known | {end for e in edge_types for end in (e[0], e[2])}
        if grown == known:
            return edge_types, known
        known = grown


def _key(node_type: str, seen: NodeTypeSeen, is_unique: Callable[[str, str], bool]) -> str:
    columns = seen.sample.column_names
    if key := likely_key(columns, seen.unique):
        return key
    candidates = [n for n in columns if _could_be_key(seen.sample[n])]
    by_name = sorted(candidates, key=lambda n: (not n.lower().endswith(("id", "key")), n != "name"))
    for name in by_name:
        if is_unique(node_type, name):
            return name
    raise SchemaError(
        f"{node_type} has no property that is unique and present on all {seen.count} nodes, only "
        f"{columns}; add one, or name the key in a schema of your own"
    )


def _could_be_key(column: pa.ChunkedArray) -> bool:
    if column.null_count or not (is_string(column.type) or pa.types.is_integer(column.type)):
        return False
    return pc.count_distinct(column).as_py() == len(column)


def _role(name: str, column: pa.ChunkedArray) -> str | None:
    """Whether a property is text, numeric, categorical or none of these."""
    kind, present = column.type, len(column) - column.null_count
    if present == 0:
        return None
    if _is_list(kind):
        return "categorical" if is_string(kind.value_type) else None
    if pa.types.is_boolean(kind):
        return "categorical"
    if is_string(kind):
        distinct = pc.count_distinct(column, mode="only_valid").as_py()
        long = pc.mean(pc.utf8_length(column)).as_py() >= LONG_TEXT
        return "text" if long or distinct >= max(3, MOSTLY_DISTINCT * present) else "categorical"
    if pa.types.is_integer(kind) and name.lower().endswith("id") and _could_be_key(column):
        return None
    return "numeric" if _is_number(kind) else None


def _edge_property(
    sample: pa.Table, names: Sequence[str], suits: Callable[[pa.DataType], bool]
) -> str | None:
    """The first property of a fitting type under one of these names, whatever its case."""
    by_name = {name.lower(): name for name in sample.column_names}
    there = [by_name[name] for name in names if name in by_name]
    return next((name for name in there if suits(sample[name].type)), None)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _is_time(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_temporal(kind)
