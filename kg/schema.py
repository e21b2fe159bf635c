"""What node types, edge types and properties of a graph mean: who is a user, what is an item."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kg.errors import SchemaError

EdgeType = tuple[str, str, str]
"""``(source node type, relation, target node type)``."""

PROPERTY_ROLES = ("text", "numeric", "categorical")
"""What a property of a node may be, by the fields of a schema."""


@dataclass(frozen=True)
class Schema:
    """The roles of node types, edge types and properties in one graph.

    Only the three roles are required. Types and properties that are not named here may still be in
    the graph: node types and edge types are completed from the data, properties that are not named
    are carried along and not used as features.

    Args:
        user: node type of users.
        item: node type of items.
        interaction: edge type from users to items that is to be predicted.
        text: properties that are put into a node's text, in that order, by node type.
        numeric: properties that are numbers (year, age, price) or dates, by node type.
        categorical: properties that are names, or lists of names (gender, tags), by node type.
        key: property that identifies a node, by node type; ``id`` where nothing is said.
        edge_types: edge types besides ``interaction``; empty means all that the data has.
        weight: property of an interaction that holds its weight (rating, play count). One by the
            name ``weight`` is taken if it is there; one by another name must be.
        time: property of an interaction that holds its time; likewise.
        positive_weight: interactions from this weight on are positives; ``None``: all are.

    Raises:
        SchemaError: a name is empty, the interaction does not lead from users to items, or one
            property has two roles that exclude each other.
    """

    user: str
    item: str
    interaction: EdgeType
    text: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    numeric: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    categorical: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    key: Mapping[str, str] = field(default_factory=dict)
    edge_types: tuple[EdgeType, ...] = ()
    weight: str = "weight"
    time: str = "time"
    positive_weight: float | None = None

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "interaction", to_edge_type(self.interaction, "interaction"))
        for name in PROPERTY_ROLES:
            given = _mapping(getattr(self, name), name)
            frozen = {t: _names(p, f"{name} of {t!r}") for t, p in given.items()}
            set_(self, name, MappingProxyType(frozen))
        keys = _mapping(self.key, "key")
        set_(self, "key", MappingProxyType({t: _name(k, f"key of {t!r}") for t, k in keys.items()}))
        edge_types = dict.fromkeys(to_edge_type(e, "edge_types") for e in self.edge_types)
        edge_types.pop(self.interaction, None)
        set_(self, "edge_types", tuple(edge_types))
        for role in ("user", "item", "weight", "time"):
            _name(getattr(self, role), role)
        if self.user == self.item:
            raise SchemaError(f"user and item are both {self.user!r}; they must be two node types")
        source, _, target = self.interaction
        if (source, target) != (self.user, self.item):
            raise SchemaError(
                f"interaction {self.interaction} must lead from the user type {self.user!r} "
                f"to the item type {self.item!r}; reverse it with a query of your own if needed"
            )
        for node_type in {*self.numeric, *self.categorical}:
            both = set(self.numeric.get(node_type, ())) & set(self.categorical.get(node_type, ()))
            if both:
                raise SchemaError(f"{node_type}.{min(both)} is both numeric and categorical")
        if len({self.weight, self.time, "source", "target"}) < 4:
            raise SchemaError(
                f"weight {self.weight!r} and time {self.time!r} must be two names and neither "
                "'source' nor 'target', which are the ends of an edge"
            )
        least = self.positive_weight
        if least is not None and (not isinstance(least, int | float) or not math.isfinite(least)):
            raise SchemaError(f"positive_weight must be a finite number, got {least!r}")

    def key_of(self, node_type: str) -> str:
        """The property that identifies nodes of this type."""
        return self.key.get(node_type, "id")

    @property
    def node_types(self) -> tuple[str, ...]:
        """Every node type named anywhere in this schema, users and items first."""
        named: list[str] = [self.user, self.item]
        for source, _, target in self.edge_types:
            named += [source, target]
        for name in (*PROPERTY_ROLES, "key"):
            named += list(getattr(self, name))
        return tuple(dict.fromkeys(named))

    @property
    def described_types(self) -> set[str]:
        """Node types that have a property with a role."""
        return {node_type for role in PROPERTY_ROLES for node_type in getattr(self, role)}

    @property
    def named_columns(self) -> dict[str, str]:
        """The names of weight and time, where they are not the usual ones."""
        both = {"weight": self.weight, "time": self.time}
        return {role: name for role, name in both.items() if name != role}

    def completed(self, edge_types: Iterable[EdgeType]) -> Schema:
        """This schema with further edge types; the same object where there is nothing to add."""
        missing = [e for e in edge_types if e != self.interaction and e not in self.edge_types]
        return replace(self, edge_types=(*self.edge_types, *missing)) if missing else self

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, strings and numbers, as :meth:`from_dict` and TOML take them."""
        nodes: dict[str, dict[str, Any]] = {}
        for node_type in self.node_types:
            entry: dict[str, Any] = {}
            if node_type in self.key:
                entry["key"] = self.key[node_type]
            for name in PROPERTY_ROLES:
                if properties := getattr(self, name).get(node_type):
                    entry[name] = list(properties)
            if entry:
                nodes[node_type] = entry
        out: dict[str, Any] = {
            "user": self.user,
            "item": self.item,
            "interaction": list(self.interaction),
            "weight": self.weight,
            "time": self.time,
        }
        if self.positive_weight is not None:
            out["positive_weight"] = self.positive_weight
        return out | {"edge_types": [list(e) for e in self.edge_types], "nodes": nodes}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Schema:
        """The schema that :meth:`to_dict` wrote.

        Raises:
            SchemaError: an entry is unknown or missing.
        """
        values = dict(values)
        nodes = _mapping(values.pop("nodes", {}), "nodes")
        known = {"user", "item", "interaction", "weight", "time", "positive_weight", "edge_types"}
        if unknown := set(values) - known:
            told = sorted({*known, "nodes"})
            raise SchemaError(
                f"unknown schema entry {min(unknown)!r}; known: {told}, and where it says what to "
                "import, edges"
            )
        if absent := {"user", "item", "interaction"} - set(values):
            raise SchemaError(f"the schema lacks {sorted(absent)}")
        by_field: dict[str, dict[str, Any]] = {name: {} for name in (*PROPERTY_ROLES, "key")}
        for node_type, entry in nodes.items():
            for name, value in _mapping(entry, f"nodes.{node_type}").items():
                if name not in by_field:
                    expected = sorted(by_field)
                    raise SchemaError(f"unknown entry {name!r} of {node_type!r}; known: {expected}")
                by_field[name][node_type] = value
        entries: dict[str, Any] = values | by_field
        return cls(**entries)

    @classmethod
    def read(cls, path: str | Path) -> Schema:
        """The schema in a TOML file.

        Raises:
            SchemaError: the file is not valid TOML or not a schema.
        """
        try:
            return cls.from_dict(tomllib.loads(Path(path).read_text(encoding="utf-8")))
        except (tomllib.TOMLDecodeError, SchemaError) as error:
            raise SchemaError(f"{path}: {error}") from error

    def write(self, path: str | Path) -> None:
        """Write the schema as TOML, atomically."""
        import tomli_w

        from kg.files import write_atomically

        write_atomically(Path(path), tomli_w.dumps(self.to_dict()).encode())


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise SchemaError(f"{what} must map names to values, got {type(value).__name__}")
    return value


def _name(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise SchemaError(f"{what} must be a non-empty name, got {value!r}")
    return value


def _names(value: Any, what: str) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise SchemaError(f"{what} must be a list of property names, got {value!r}")
    return tuple(_name(v, what) for v in value)


def to_edge_type(value: Any, what: str) -> EdgeType:
    """Three names in a list or tuple.

    Raises:
        SchemaError: it is not that; told of ``what``.
    """
    parts = tuple(value) if isinstance(value, list | tuple) else ()
    if len(parts) != 3:
        raise SchemaError(f"{what} must be (source, relation, target), got {value!r}")
    source, relation, target = (_name(v, what) for v in parts)
    return source, relation, target
