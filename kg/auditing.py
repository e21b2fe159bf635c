"""What is wrong with a graph before a model is trained on it: figures, sentences, examples."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kg.graph import KnowledgeGraph, require_graph
from kg.schema import EdgeType
from kg.tables import is_string, text_column
from kg.wording import counted

NAME_PROPERTIES = ("name", "title", "label")
NUM_EXAMPLES = 5


@dataclass(frozen=True)
class AuditLimits:
    """From where on an audit calls something a fault; the defaults separate MovieLens from noise.

    Args:
        taste: nodes that a relation links must have more users (items) in common than shuffled
            links make them have, by so many standard deviations. True links of MovieLens 100K and
            Last.fm have 9 to 200, shuffled ones at most 3.
        content: the same for words and other entities; there true links have 3 to 170.
        links: with fewer links between known nodes nothing is said about a relation.
        duplicates: largest share of nodes with another node of the same name.
        isolated: largest share of items that no relation but interactions reaches.
        leaked: largest share of links that repeat interactions.
        copied: largest share of item-item links that go to the most co-consumed items.
        hub: largest share of a relation's nodes that one entity is linked to.
        missing_text: largest share of nodes without text, where the schema names text.
        missing_values: largest share of nodes without a value of a property that the schema names.
    """

    taste: float = 4.0
    content: float = 3.0
    links: int = 30
    duplicates: float = 0.0
    isolated: float = 0.05
    leaked: float = 0.2
    copied: float = 0.7
    hub: float = 0.7
    missing_text: float = 0.05
    missing_values: float = 0.5


@dataclass(frozen=True)
class Finding:
    """What one check found out about one part of a graph.

    Args:
        check: name of the check.
        subject: a node type, a property or a relation.
        figure: what was measured; NaN where there is too little to tell.
        threshold: the figure may not pass it.
        at_least: whether the figure must reach the threshold, not stay below or at it.
        sentence: what it means.
        examples: a few rows, empty where there is nothing to show.
    """

    check: str
    subject: str
    figure: float
    threshold: float
    at_least: bool
    sentence: str
    examples: tuple[dict[str, Any], ...] = ()

    @property
    def is_fault(self) -> bool:
        """Whether the figure is on the wrong side; unknown is no fault."""
        return self.figure < self.threshold if self.at_least else self.figure > self.threshold

    @property
    def verdict(self) -> str:
        """``"fault"``, ``"ok"`` or ``"unknown"``."""
        if np.isnan(self.figure):
            return "unknown"
        return "fault" if self.is_fault else "ok"


@dataclass(frozen=True)
class Audit:
    """All findings about one graph, faults first, each check's worst first."""

    findings: tuple[Finding, ...]

    def __repr__(self) -> str:
        return f"Audit(findings: {len(self.findings)}, faults: {len(self.faults)})"

    @property
    def faults(self) -> tuple[Finding, ...]:
        """The findings that need a look."""
        return tuple(f for f in self.findings if f.is_fault)

    def of(self, check: str) -> dict[str, Finding]:
        """The findings of one check, by subject."""
        return {f.subject: f for f in self.findings if f.check == check}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an unknown figure is ``None``."""
        rows = []
        for found in self.findings:
            row = asdict(found) | {"verdict": found.verdict}
            row["figure"] = None if np.isnan(found.figure) else found.figure
            rows.append(row)
        return {"faults": len(self.faults), "findings": rows}

    def to_table(self) -> pa.Table:
        """A row per finding, without examples."""
        names = ("check", "subject", "verdict", "figure", "threshold", "sentence")
        columns = {n: [getattr(f, n) for f in self.findings] for n in names}
        return pa.table(columns)

    def to_text(self, *, every: bool = False) -> str:
        """A table for people: faults with their examples, the rest counted, or all of it."""
        lines = [f"{'verdict':8} {'check':20} {'subject':36} {'figure':>8} {'limit':>8}"]
        for f in self.findings:
            if not (every or f.is_fault):
                continue
            sign = ">=" if f.at_least else "<="
            lines.append(
                f"{f.verdict:8} {f.check:20} {f.subject:36.36} {f.figure:8.3g} "
                f"{sign + format(f.threshold, '.3g'):>8}"
            )
            lines.append(f"         {f.sentence}")
            if f.is_fault:
                lines += [f"           {_shown(row)}" for row in f.examples]
        if not every:
            counts = Counter((f.verdict, f.check) for f in self.findings if not f.is_fault)
            lines += [
                f"{v:8} {check:20} {counted(n, 'subject')}" for (v, check), n in counts.items()
            ]
        lines.append(
            f"{counted(len(self.faults), 'fault')} in {counted(len(self.findings), 'finding')}"
        )
        return "\n".join(lines)


def audit(
    graph: KnowledgeGraph,
    limits: AuditLimits | None = None,
    *,
    rng: int | np.random.Generator = 0,
) -> Audit:
    """What is wrong with a graph, check by check.

    A relation is *informative* if the items (or users) it links share more positive users (items)
    than they do after its links were shuffled, and links *like nodes* if they share more words and
    other entities. The other checks look for duplicate entities and relations, isolated items,
    leaked interactions, hubs, missing texts, and properties that say nothing.

    Args:
        graph: to look at; it is not changed.
        limits: from where on something is a fault.
        rng: seed or generator of the shuffles.

    Raises:
        TypeError: ``graph`` is none.
    """
    require_graph(graph, "audit")
    limits = limits or AuditLimits()
    rng = np.random.default_rng(rng)
    checks: Sequence[Callable[[], Iterator[Finding]]] = (
        lambda: _relations(graph, limits, rng),
        lambda: _duplicate_entities(graph, limits),
        lambda: _duplicate_relations(graph),
        lambda: _isolated(graph, limits),
        lambda: _leaks(graph, limits, rng),
        lambda: _hubs(graph, limits),
        lambda: _missing_texts(graph, limits),
        lambda: _properties(graph, limits),
        lambda: _dangling(graph),
    )
    found = [finding for check in checks for finding in check()]
    return Audit(tuple(sorted(found, key=lambda f: not f.is_fault)))


def _relations(
    graph: KnowledgeGraph, limits: AuditLimits, rng: np.random.Generator
) -> Iterator[Finding]:
    from kg.likeness import content_profiles, excess_likeness, taste_profiles

    schema = graph.schema
    tastes: dict[str, np.ndarray] = {}
    for edge_type, end in _feature_ends(graph):
        node_type, same_type = edge_type[end], edge_type[0] == edge_type[2]
        here, there = graph.edges[edge_type].index[:: 1 if end == 0 else -1]
        if node_type not in tastes:
            tastes[node_type] = taste_profiles(graph, node_type, rng)
        shared = "positive users" if node_type == schema.item else "positive items"
        for check, profile, what, limit in (
            ("informative relation", tastes[node_type], shared, limits.taste),
            (
                "links like nodes",
                content_profiles(graph, node_type, edge_type, rng),
                "words and other entities",
                limits.content,
            ),
        ):
            found = excess_likeness(
                profile, here, there, rng, same_type=same_type, min_links=limits.links
            )
            sentence = (
                f"{node_type} nodes that it links are alike by {found.observed:.3f} in {what}, by "
                f"{found.shuffled:.3f} with its links shuffled ({found.num_links} links)"
            )
            if np.isnan(found.deviations):
                sentence = (
                    f"{found.num_links} links between {node_type} nodes with {what} are too few"
                )
            examples = tuple(_some_links(graph, edge_type))
            name = relation_label(edge_type)
            yield Finding(check, name, found.deviations, limit, True, sentence, examples)


def _feature_ends(graph: KnowledgeGraph) -> Iterator[tuple[EdgeType, int]]:
    """Relations that make features, with the end (0 or 2) that is a user or item."""
    sides = (graph.schema.item, graph.schema.user)
    for edge_type in graph.edges:
        if {edge_type[0], edge_type[2]} == set(sides):
            continue  # interactions, and what may have leaked of them
        for end in (0, 2):
            if edge_type[end] in sides:
                yield edge_type, end
                break


def _some_links(graph: KnowledgeGraph, edge_type: EdgeType) -> list[dict[str, Any]]:
    sources, targets = graph.vocabularies[edge_type[0]], graph.vocabularies[edge_type[2]]
    rows = graph.edges[edge_type].index[:, :NUM_EXAMPLES].T.tolist()
    return [{"source": sources[s], "target": targets[t]} for s, t in rows]


def _duplicate_entities(graph: KnowledgeGraph, limits: AuditLimits) -> Iterator[Finding]:
    for node_type, nodes in graph.vocabularies.items():
        names = _names(graph, node_type)
        if names is None or not len(nodes):
            continue
        by_name: dict[str, list[int]] = {}
        for row, name in enumerate(names):
            if plain := plain_name(name or ""):
                by_name.setdefault(plain, []).append(row)
        groups = [rows for rows in by_name.values() if len(rows) > 1]
        surplus = sum(len(rows) - 1 for rows in groups)
        sentence = f"{surplus} of {len(nodes)} {node_type} nodes have the name of another"
        examples = tuple(
            {"keys": [nodes[r] for r in rows[:3]], "names": [names[r] for r in rows[:3]]}
            for rows in groups[:NUM_EXAMPLES]
        )
        yield Finding(
            "duplicate entities",
            node_type,
            surplus / len(nodes),
            limits.duplicates,
            False,
            sentence,
            examples,
        )


def _names(graph: KnowledgeGraph, node_type: str) -> list[str | None] | None:
    """What a node of this type is called; people who share a name are not duplicates."""
    table, nodes = graph.attributes[node_type], graph.vocabularies[node_type]
    if node_type == graph.schema.user:
        return None
    texts = [n for n in graph.schema.text.get(node_type, ()) if n in table.column_names]
    texts = texts or [n for n in NAME_PROPERTIES if n in table.column_names][:1]
    if texts:
        columns = [text_column(table[name]) for name in texts]
        return [" ".join(part or "" for part in row) for row in zip(*columns, strict=True)]
    return None if nodes.is_int else nodes.keys.to_pylist()


def plain_name(name: str) -> str:
    """A name without case, accents, punctuation and spaces."""
    decomposed = unicodedata.normalize("NFKD", name.casefold())
    return "".join(c for c in decomposed if c.isalnum())


def _duplicate_relations(graph: KnowledgeGraph) -> Iterator[Finding]:
    seen: dict[tuple[str, str, bytes], EdgeType] = {}
    for edge_type, edges in graph.edges.items():
        if not len(edges):
            continue
        order = np.lexsort(edges.index[::-1])
        key = (edge_type[0], edge_type[2], edges.index[:, order].tobytes())
        other = seen.setdefault(key, edge_type)
        same = other != edge_type
        sentence = (
            f"it has exactly the {len(edges)} links of {relation_label(other)}; leave one out"
            if same
            else "no other relation has the same links"
        )
        yield Finding(
            "duplicate relation", relation_label(edge_type), float(same), 0.0, False, sentence
        )


def _isolated(graph: KnowledgeGraph, limits: AuditLimits) -> Iterator[Finding]:
    item, nodes = graph.schema.item, graph.items
    reached = np.zeros(len(nodes), bool)
    for edge_type, edges in graph.edges.items():
        if {edge_type[0], edge_type[2]} == {item, graph.schema.user}:
            continue
        for end in (0, 2):
            if edge_type[end] == item:
                reached[edges.index[end // 2]] = True
    rows = np.flatnonzero(~reached)
    lacking = _without_text(graph, item)
    mute = int(lacking[rows].sum()) if lacking is not None else len(rows)
    sentence = f"{len(rows)} of {len(nodes)} items have no relation but interactions" + (
        f", {mute} of them no text either" if len(rows) else ""
    )
    examples = tuple({"item": nodes[int(r)]} for r in rows[:NUM_EXAMPLES])
    share = len(rows) / max(len(nodes), 1)
    yield Finding("isolated items", item, share, limits.isolated, False, sentence, examples)


def _leaks(
    graph: KnowledgeGraph, limits: AuditLimits, rng: np.random.Generator
) -> Iterator[Finding]:
    from kg.likeness import copied_share

    schema, items = graph.schema, graph.items
    width = max(len(items), 1)
    known = np.unique(graph.interactions.index[0] * width + graph.interactions.index[1])
    for edge_type, edges in graph.edges.items():
        if edge_type == schema.interaction:
            continue
        name = relation_label(edge_type)
        if edge_type[0] == edge_type[2] == schema.item:
            share, hits = copied_share(graph, edge_type, rng)
            sentence = (
                "no two items with users are linked"
                if np.isnan(share)
                else f"{share:.0%} of its links go to the items with the most users in common; a "
                "relation made from interactions has nearly all there"
            )
            examples = tuple({"source": items[s], "target": items[t]} for s, t in hits)
            yield Finding(
                "leaked interactions", name, share, limits.copied, False, sentence, examples
            )
        elif pairs := _as_user_item(graph, edge_type):
            users, there = pairs
            again = np.isin(users * width + there, known) & (users >= 0)
            hits = np.flatnonzero(again)[:NUM_EXAMPLES]
            examples = tuple(
                {"user": graph.users[int(users[h])], "item": items[int(there[h])]} for h in hits
            )
            share = float(again.mean()) if len(again) else 0.0
            sentence = f"{share:.0%} of its {len(edges)} links repeat an interaction"
            yield Finding(
                "leaked interactions", name, share, limits.leaked, False, sentence, examples
            )


def _as_user_item(
    graph: KnowledgeGraph, edge_type: EdgeType
) -> tuple[np.ndarray, np.ndarray] | None:
    """User and item rows of a relation between items and users, or nodes with users' keys."""
    if graph.schema.item not in (edge_type[0], edge_type[2]):
        return None
    source, target = graph.edges[edge_type].index
    items, others = (target, source) if edge_type[2] == graph.schema.item else (source, target)
    other_type = edge_type[0] if edge_type[2] == graph.schema.item else edge_type[2]
    if other_type == graph.schema.user:
        return others, items
    as_users = graph.users.rows(graph.vocabularies[other_type].keys, missing="mark")
    if (as_users >= 0).mean() < 0.5 if len(as_users) else True:
        return None
    return as_users[others], items


def _hubs(graph: KnowledgeGraph, limits: AuditLimits) -> Iterator[Finding]:
    for edge_type, end in _feature_ends(graph):
        here, there = graph.edges[edge_type].index[:: 1 if end == 0 else -1]
        num_linked = len(np.unique(here))
        if num_linked < limits.links:
            continue
        degree = np.bincount(np.unique(np.stack([here, there]), axis=1)[1])
        entities = graph.vocabularies[edge_type[2 - end]]
        largest = np.argsort(-degree, kind="stable")[:NUM_EXAMPLES]
        share = float(degree[largest[0]] / num_linked)
        sentence = (
            f"{entities[int(largest[0])]!r} is linked to {share:.0%} of the {num_linked} "
            f"{edge_type[end]} nodes with this relation, so it tells little about them"
            if share > limits.hub
            else f"no entity is linked to more than {share:.0%} of them"
        )
        examples = tuple(
            {"entity": entities[int(e)], "links": int(degree[e])} for e in largest if degree[e]
        )
        name = relation_label(edge_type)
        yield Finding("hub entities", name, share, limits.hub, False, sentence, examples)


def _missing_texts(graph: KnowledgeGraph, limits: AuditLimits) -> Iterator[Finding]:
    for node_type, nodes in graph.vocabularies.items():
        lacking = _without_text(graph, node_type)
        if lacking is None or not len(nodes):
            continue
        rows = np.flatnonzero(lacking)
        sentence = f"{len(rows)} of {len(nodes)} {node_type} nodes have no text"
        examples = tuple({"node": nodes[int(r)]} for r in rows[:NUM_EXAMPLES])
        share = len(rows) / len(nodes)
        yield Finding(
            "missing texts", node_type, share, limits.missing_text, False, sentence, examples
        )


def _without_text(graph: KnowledgeGraph, node_type: str) -> np.ndarray | None:
    """Which nodes have no word in any text property, bool; ``None`` where none is named."""
    named = graph.schema.text.get(node_type)
    if not named:
        return None
    table, found = graph.attributes[node_type], np.zeros(graph.num_nodes(node_type), bool)
    for name in named:
        if name in table.column_names:
            found |= np.array([bool((t or "").strip()) for t in text_column(table[name])], bool)
    return ~found


def _properties(graph: KnowledgeGraph, limits: AuditLimits) -> Iterator[Finding]:
    """Properties with a role that no node has, that few have, or that are the same on all."""
    for role in ("text", "numeric", "categorical"):
        for node_type, names in getattr(graph.schema, role).items():
            num_nodes = graph.num_nodes(node_type) if node_type in graph.vocabularies else 0
            for name in names if num_nodes else ():
                table, subject = graph.attributes[node_type], f"{node_type}.{name}"
                there = name in table.column_names
                nulls = _num_missing(table[name]) if there else num_nodes
                sentence = f"{nulls} of {num_nodes} nodes have no value"
                if not there:
                    sentence = f"the schema names it as {role}, and the graph has no such property"
                share, limit = nulls / num_nodes, limits.missing_values
                yield Finding("missing values", subject, share, limit, False, sentence)
                if there and num_nodes - nulls > 1:
                    yield _constant(table[name], subject)


def _num_missing(column: pa.ChunkedArray) -> int:
    """Nulls, and texts of spaces alone, which readers of CSV make of an empty cell."""
    blank = 0
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        trimmed = pc.utf8_trim_whitespace(column)  # pyright: ignore
        blank = pc.sum(pc.equal(trimmed, "")).as_py() or 0  # pyright: ignore
    return column.null_count + blank


def _constant(column: pa.ChunkedArray, subject: str) -> Finding:
    column = column.drop_null()
    kind = column.type
    if is_string(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        num_values = pc.count_distinct(column).as_py()  # pyright: ignore
    else:
        num_values = len({repr(value) for value in column.to_pylist()})
    first = column[0].as_py()
    sentence = f"{num_values} different values"
    if num_values < 2:
        sentence = f"all nodes with a value have the same one, so it says nothing: {first!r:.60}"
    rows = ({"value": first},) if num_values < 2 else ()
    return Finding("constant property", subject, num_values, 2, True, sentence, rows)


def _dangling(graph: KnowledgeGraph) -> Iterator[Finding]:
    """Edges that were left out for want of an end, and entities that nothing is linked to."""
    for edge_type, count in graph.skipped.items():
        total = count + graph.num_edges(edge_type)
        sentence = f"{count} of {total} edges name a node that does not exist and were left out"
        yield Finding(
            "dangling edges", relation_label(edge_type), count / total, 0.0, False, sentence
        )
    for node_type, nodes in graph.vocabularies.items():
        if node_type in (graph.schema.user, graph.schema.item) or not len(nodes):
            continue
        linked = np.zeros(len(nodes), bool)
        for edge_type, edges in graph.edges.items():
            for end in (0, 2):
                if edge_type[end] == node_type:
                    linked[edges.index[end // 2]] = True
        rows = np.flatnonzero(~linked)
        sentence = f"{len(rows)} of {len(nodes)} {node_type} nodes have no edge at all"
        examples = tuple({"node": nodes[int(r)]} for r in rows[:NUM_EXAMPLES])
        share = len(rows) / len(nodes)
        yield Finding("unlinked entities", node_type, share, 0.0, False, sentence, examples)


def relation_label(edge_type: EdgeType) -> str:
    """An edge type in a word: ``Movie-HAS_GENRE-Genre``."""
    return "-".join(edge_type)


def _shown(row: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value!r:.60}" for name, value in row.items())
