"""What a change of the graph does to an engine: priors first, then one simultaneous half step."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakSet

import numpy as np
import pyarrow as pa
import torch

from coldstart.approximate import ApproximateIndex
from coldstart.calibration import familiarity, newness, newness_since_training
from coldstart.index import ExactIndex, grown_tensor
from coldstart.known_names import require_edge_type
from coldstart.ready_texts import check_length, rows_of_new
from coldstart.ready_vectors import Ready, after_change, of_one
from gnn.data import Adjacency, NodeInputs, category_values, feature_edge_types, number_of
from gnn.groups import Category
from gnn.infer import posteriors, priors, rotated_rows
from gnn.single import embed_single, single_prior
from gnn.train import TrainedSide
from kg.delta import GraphDelta, take_rows
from kg.errors import AlignmentError, UnknownNodeError
from kg.graph import KnowledgeGraph, as_edge_type
from kg.growing import first_of_run, grown, taken
from kg.schema import EdgeType
from kg.tables import finite_array
from kg.vectors import Key, NodeEmbeddings, Vocabulary

if TYPE_CHECKING:
    from coldstart.engine import ColdStartEngine
    from encoders.base import TextEncoder


log = logging.getLogger(__name__)

_MAKING = threading.Lock()

_SEARCHES = "_item_search", "_stale_search"
"""What looks for items, or could go on doing so until another is made."""


def updated(
    engine: ColdStartEngine,
    delta: GraphDelta,
    texts: Mapping[str, NodeEmbeddings] | None,
    ready: Ready,
    progress: bool,
) -> ColdStartEngine:
    """See :meth:`coldstart.engine.ColdStartEngine.update`."""
    if not delta and not texts and not ready:
        return engine
    old = engine.graph
    graph = old.apply(delta)
    user, item = graph.schema.user, graph.schema.item
    # A key that is removed and added again in one change is a new node.
    kept = {
        node_type: np.setdiff1d(np.arange(old.num_nodes(node_type)), _rows(old, node_type, keys))
        for node_type, keys in delta.removed_nodes.items()
    }
    changed = {t: Vocabulary(t, table[graph.schema.key_of(t)]) for t, table in delta.nodes.items()}
    further = after_change(engine.vectors, graph, kept, changed, ready)
    given = texts or {}
    given_rows = rows_of_new(engine.texts, graph, given)
    reworded = {
        t: _reworded(engine, graph, delta, kept, given, given_rows, t) for t in engine.texts
    }
    vectors = {
        t: _grown_texts(engine, graph, kept.get(t), rows, given, progress, t)
        for t, rows in reworded.items()
    }
    moved = replace(
        engine,
        graph=graph,
        texts=vectors,
        vectors=further,
        users=_renumbered(engine, user, engine.users, kept),
        items=_renumbered(engine, item, engine.items, kept),
        user_vectors=_grown(engine.user_vectors, len(graph.users), kept.get(user)),
        item_vectors=_grown(engine.item_vectors, len(graph.items), kept.get(item)),
        newness=_grown(engine.newness, len(graph.items), kept.get(item)),
        familiarity=_grown(engine.familiarity, len(graph.users), kept.get(user)),
        ratings=engine.ratings.after(engine, delta, kept),
        heard=engine.heard.after(old, delta),
    )
    touched = touched_rows(
        old,
        graph,
        delta,
        reworded=reworded,
        heard={user: moved.users.warm, item: moved.items.warm},
        uses_history=item in engine.texts and _uses_history(engine),
        followed=_followed(engine, delta),
    )
    fresh = {t: len(kept.get(t, old.vocabularies[t])) for t in (user, item)}
    before = {user: moved.user_vectors, item: moved.item_vectors}
    prior: dict[str, torch.Tensor] = {}
    for node_type, side in ((user, moved.users), (item, moved.items)):
        rows = touched[node_type]
        if not len(rows):
            continue
        inputs = moved._inputs_of(node_type, rows)
        prior[node_type] = _priors(side, inputs, before[node_type].device)
        first = int(np.searchsorted(rows, fresh[node_type]))
        if first < len(rows):  # then the matrix has grown and is our own
            _put(before[node_type], rows[first:], prior[node_type][first:])
    after = dict(before)
    for node_type, mine in prior.items():
        rows = touched[node_type]
        found = moved._embedded(node_type, rows, before[user], before[item], mine)
        if found is mine and rows[0] >= fresh[node_type]:
            continue  # new nodes without interactions: their priors are there already
        if rows[0] < fresh[node_type]:
            after[node_type] = before[node_type].clone()
        _put(after[node_type], rows, found)
    new = moved.newness
    if len(touched[item]):
        if touched[item][0] < fresh[item]:
            new = new.clone()
        _put(new, touched[item], newness(graph, moved.items, touched[item]))
    known = moved.familiarity
    if len(touched[user]):
        if touched[user][0] < fresh[user]:
            known = known.clone()
        counts = moved._links(user, touched[user]).degrees
        _put(known, touched[user], familiarity(counts, moved.half_familiar).to(known))
    found = replace(
        moved,
        user_vectors=after[user],
        item_vectors=after[item],
        newness=new,
        familiarity=known,
    )
    _continue_index(engine, found, "_item_index", touched[item], fresh[item], kept.get(item))
    _continue_index(engine, found, "_user_index", touched[user], fresh[user], kept.get(user))
    return found


def _continue_index(
    before: ColdStartEngine,
    after: ColdStartEngine,
    name: str,
    touched: np.ndarray,
    num_before: int,
    kept: np.ndarray | None,
) -> None:
    """Give the new engine the old one's index as far as it goes.

    Args:
        before: the engine before the change.
        after: the engine after it.
        name: of the index.
        touched: ascending rows that changed or came.
        num_before: so many of the rows after were there before.
        kept: rows before that stay; ``None``: all.
    """
    index: ExactIndex | None = before.__dict__.get(name)
    if index is None or index.rows.device.type != "cpu":
        return
    vectors = after.item_vectors if name == "_item_index" else after.user_vectors
    if kept is None and not len(touched) and len(vectors) == num_before:
        for same in (name, *_SEARCHES) if name == "_item_index" else (name,):
            if same in before.__dict__:
                after.__dict__[same] = before.__dict__[same]
        return
    some = touched[: np.searchsorted(touched, num_before)]  # of those that were there
    new = np.arange(num_before, len(vectors))
    if kept is not None:
        index = index.after_removal(getattr(after, name), np.union1d(some, new))
    for rows in (some, new) if kept is None else ():
        if len(rows):
            at = _at(vectors, rows)
            if name == "_user_index":
                index = index.with_rows(at, vectors[at], after.familiarity[at])
            else:
                lacking = after.newness[at]
                longer = after.gain_at(lacking)[:, None] * vectors[at]
                index = index.with_rows(at, longer, after.cold_boost * lacking)
    after.__dict__[name] = index
    if name == "_user_index":
        return
    search = next((before.__dict__[s] for s in _SEARCHES if s in before.__dict__), None)
    if isinstance(search, ApproximateIndex):
        search = search.followed(index, np.union1d(some, new), kept)
        after.__dict__["_stale_search" if search.is_stale else "_item_search"] = search
    elif search is not None and before.may_approximate:
        after.__dict__["_item_search"] = index  # clusters were tried, and not worth it


def _at(vectors: torch.Tensor, rows: np.ndarray) -> slice | torch.Tensor:
    """Rows as an index, which for those that follow one another is a slice."""
    if (first := first_of_run(rows)) is not None:
        return slice(first, first + len(rows))
    return torch.from_numpy(rows).to(vectors.device)


def _put(vectors: torch.Tensor, rows: np.ndarray, values: torch.Tensor) -> None:
    vectors[_at(vectors, rows)] = values


def _priors(side: TrainedSide, inputs: NodeInputs, device: torch.device) -> torch.Tensor:
    """Priors of all these nodes, by the short way where there is one node, ``[n, k]``."""
    if len(inputs) == 1 and device.type == "cpu":
        return torch.from_numpy(single_prior(side, inputs))[None]
    return priors(side, inputs, np.arange(len(inputs)), device)


def touched_rows(
    old: KnowledgeGraph,
    new: KnowledgeGraph,
    delta: GraphDelta,
    *,
    reworded: Mapping[str, np.ndarray],
    heard: Mapping[str, np.ndarray],
    uses_history: bool,
    followed: Collection[EdgeType] = (),
) -> dict[str, np.ndarray]:
    """Rows in the new graph of the users and items whose features or interactions may differ.

    Args:
        old: before the change.
        new: after it.
        delta: the change.
        reworded: new rows of the known nodes whose text changed, by node type.
        heard: new rows of the nodes that count in the features of those linked to them.
        uses_history: whether a user's features tell what the friends interacted with.
        followed: edge types between other nodes that features of those linked to these tell of.
    """
    schema = new.schema
    touched: dict[str, set[int]] = {schema.user: set(), schema.item: set()}

    def touch(node_type: str, keys: pa.ChunkedArray) -> set[int]:
        if node_type not in touched or not len(keys):
            return set()
        rows = new.vocabularies[node_type].rows(keys, missing="mark")
        found = set(rows[rows >= 0].tolist())
        touched[node_type] |= found
        return found

    # Nodes of other types whose own links change, which those linked to them may tell of.
    relinked: dict[str, set[int]] = {}

    def relink(node_type: str, keys: pa.ChunkedArray) -> None:
        rows = new.vocabularies[node_type].rows(keys, missing="mark")
        relinked.setdefault(node_type, set()).update(rows[rows >= 0].tolist())

    # Those whose friends may find that their own features changed.
    speakers = {t: set(reworded[t].tolist()) if t in reworded else set() for t in touched}
    touched |= {t: set(rows) for t, rows in speakers.items()}
    for node_type, table in delta.nodes.items():
        touch(node_type, table[schema.key_of(node_type)])
    for tables in (delta.edges, delta.removed_edges):
        for edge_type, table in tables.items():
            sources = touch(edge_type[0], table["source"])
            touch(edge_type[2], table["target"])
            if edge_type in followed:
                relink(edge_type[0], table["source"])
                relink(edge_type[2], table["target"])
            if uses_history and edge_type == schema.interaction:
                speakers[schema.user] |= sources
    for node_type, keys in delta.removed_nodes.items():
        gone = _rows(old, node_type, keys)
        for edge_type, edges in old.edges.items():
            for end, other in ((0, 2), (2, 0)):
                if edge_type[end] == node_type:
                    hit = np.isin(edges.index[end // 2], gone)
                    there = np.unique(edges.index[other // 2][hit])
                    keys = _keys(old.vocabularies[edge_type[other]], there)
                    if edge_type in followed:
                        relink(edge_type[other], keys)
                    linked = touch(edge_type[other], keys)
                    if uses_history and edge_type == schema.interaction and other == 0:
                        speakers[schema.user] |= linked
    items = reworded.get(schema.item)
    if uses_history and items is not None and len(items):
        edges = new.interactions
        speakers[schema.user] |= set(edges.index[0, edges.touching(1, items)[0]].tolist())
    for entity, rows in relinked.items():
        for node_type in touched:
            touched[node_type] |= _linked_to(new, node_type, entity, rows)
    for node_type, rows in speakers.items():
        if rows:
            some = np.array(sorted(rows), np.int64)
            some = some[np.isin(some, heard[node_type])]
            touched[node_type] |= touch_peers(new, node_type, set(some.tolist()))
    return {t: np.array(sorted(rows), np.int64) for t, rows in touched.items()}


def _linked_to(graph: KnowledgeGraph, node_type: str, entity: str, rows: set[int]) -> set[int]:
    """The users or items that are linked to some entities."""
    out: set[int] = set()
    wanted = np.array(sorted(rows), np.int64)
    for edge_type in feature_edge_types(graph.edge_types, graph, node_type):
        for end, other in ((0, 2), (2, 0)):
            if edge_type[end] == entity and edge_type[other] == node_type:
                edges = graph.edges[edge_type]
                at, _ = edges.touching(end // 2, wanted)
                out.update(edges.index[other // 2, at].tolist())
    return out


def touch_peers(graph: KnowledgeGraph, node_type: str, rows: set[int]) -> set[int]:
    """The nodes of the same type that some nodes are linked to."""
    out: set[int] = set()
    if not rows:
        return out
    for edge_type in feature_edge_types(graph.edge_types, graph, node_type):
        if edge_type[0] == edge_type[2]:
            edges, wanted = graph.edges[edge_type], np.array(list(rows), np.int64)
            for end in (0, 1):
                out.update(edges.index[1 - end, edges.touching(end, wanted)[0]].tolist())
    return out


def _rows(graph: KnowledgeGraph, node_type: str, keys: Sequence[Key]) -> np.ndarray:
    return graph.vocabularies[node_type].rows(keys)


def _keys(nodes: Vocabulary, rows: np.ndarray) -> pa.ChunkedArray:
    return taken(nodes.keys, rows)


def _uses_history(engine: ColdStartEngine) -> bool:
    user = engine.graph.schema.user
    return any(e[0] == e[2] == user for e in engine.feature_edges)


def _followed(engine: ColdStartEngine, delta: GraphDelta) -> set[EdgeType]:
    """Edge types of the far relations that some feature group has, if the change may be of them."""
    out: set[EdgeType] = set()
    sides = {engine.graph.schema.user, engine.graph.schema.item}
    between = (not sides & {e[0], e[2]} for e in (*delta.edges, *delta.removed_edges))
    if not any(between) and not delta.removed_nodes:
        return out
    for node_type, far in engine.far_relations.items():
        side, _ = engine._side(node_type)
        used = side.propagation.relations
        out |= {relation.edge_type for name, relation in far.items() if name in used}
    return out


def _renumbered(
    engine: ColdStartEngine, node_type: str, side: TrainedSide, kept: dict[str, np.ndarray]
) -> TrainedSide:
    if not kept:
        return side
    inputs = engine._inputs_of(node_type, np.empty(0, np.int64))
    propagation = side.propagation.renumbered(node_type, kept, dict(inputs.entity_types))
    return replace(
        side, propagation=propagation, warm=warm_after(engine, node_type, side.warm, kept)
    )


def warm_after(
    engine: ColdStartEngine, node_type: str, warm: np.ndarray, kept: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Rows of the warm nodes after nodes were removed and the rest moved up.

    A warm node that is gone keeps its place in what was learnt, under no row (-1).
    """
    if node_type not in kept:
        return warm
    new_row = np.full(engine.graph.num_nodes(node_type), -1, np.int64)
    new_row[kept[node_type]] = np.arange(len(kept[node_type]))
    return np.where(warm >= 0, new_row[np.maximum(warm, 0)], -1)


def _grown(vectors: torch.Tensor, num_rows: int, kept: np.ndarray | None) -> torch.Tensor:
    if kept is not None:
        vectors = vectors[torch.from_numpy(kept).to(vectors.device)]
    if num_rows == len(vectors):
        return vectors
    shape = (num_rows - len(vectors), *vectors.shape[1:])
    if vectors.device.type == "cpu":
        return grown_tensor(vectors, vectors.new_zeros(shape))
    return torch.cat([vectors, vectors.new_zeros(shape)])


def _reworded(
    engine: ColdStartEngine,
    graph: KnowledgeGraph,
    delta: GraphDelta,
    kept: Mapping[str, np.ndarray],
    given: Mapping[str, NodeEmbeddings],
    given_rows: Mapping[str, np.ndarray],
    node_type: str,
) -> np.ndarray:
    """New rows of the known nodes whose text changed, or whose vector comes and is another one."""
    nodes, stay = graph.vocabularies[node_type], kept.get(node_type)
    num_known = len(engine.graph.vocabularies[node_type] if stay is None else stay)
    out = np.empty(0, np.int64)
    table, texts = delta.nodes.get(node_type), set(graph.schema.text.get(node_type, ()))
    if table is not None and texts & set(table.column_names):
        out = nodes.rows(table[graph.schema.key_of(node_type)])
        out = out[out < num_known]
    rows = given_rows.get(node_type)
    if rows is None or rows.min(initial=num_known) >= num_known:
        return out
    matrix, rows = given[node_type].matrix[rows < num_known], rows[rows < num_known]
    before = engine.texts[node_type].matrix[rows if stay is None else stay[rows]]
    return np.union1d(out, rows[(matrix != before).any(axis=1)])


def _grown_texts(
    engine: ColdStartEngine,
    graph: KnowledgeGraph,
    kept: np.ndarray | None,
    reworded: np.ndarray,
    given: Mapping[str, NodeEmbeddings],
    progress: bool,
    node_type: str,
) -> NodeEmbeddings:
    """The text vectors of all nodes of a type after the change."""
    nodes, matrix = graph.vocabularies[node_type], engine.texts[node_type].matrix
    if kept is not None:
        matrix = matrix[kept]
    rows = np.concatenate([reworded, np.arange(len(matrix), len(nodes))])
    if len(rows):
        found = _text_vectors(engine, graph, node_type, rows, given, progress)
        num_changed = len(reworded)
        matrix = grown(matrix, found[num_changed:])
        if num_changed:
            matrix = matrix.copy()
            matrix[reworded] = found[:num_changed]
    return NodeEmbeddings(nodes, matrix)


def _text_vectors(
    engine: ColdStartEngine,
    graph: KnowledgeGraph,
    node_type: str,
    rows: np.ndarray,
    given: Mapping[str, NodeEmbeddings],
    progress: bool,
) -> np.ndarray:
    nodes, dim = graph.vocabularies[node_type], engine.texts[node_type].dim
    if node_type in given:
        at = given[node_type].nodes.rows(_keys(nodes, rows), missing="mark")
        if (at < 0).any():
            key = nodes[int(rows[np.argmax(at < 0)])]
            raise UnknownNodeError(
                f"{node_type} {key!r} is new or changed and has no vector in texts=; give one for "
                "each (zero where there is no text), or leave texts= out to have them encoded"
            )
        found, source = given[node_type].matrix[at], "texts="
    else:
        from encoders.embed import embed_nodes

        some, encoder = graph_of_rows(graph, node_type, rows), engine.encoder
        if encoder is None:
            _require_default_encoder(engine, node_type)
        every = embed_nodes(
            some, encoder or _default(), [node_type], cache=engine.cache, progress=progress
        )
        found = every[node_type].matrix
        source = "the default encoder" if encoder is None else "the encoder"
    check_length(node_type, found.shape[1], dim, source)
    return found


@cache
def _made_default() -> TextEncoder:
    from encoders.embed import default_encoder

    return default_encoder()


def _default() -> TextEncoder:
    """The default encoder, loaded once: for one text it takes much longer to load than to run."""
    with _MAKING:  # or two threads have one each
        return _made_default()


def warm_up(engine: ColdStartEngine) -> bool:
    """Load the default encoder, for which the first change with a text would wait for seconds.

    Returns:
        Whether that was done; not where the engine's vectors are not the default encoder's.
    """
    if engine.encoder is not None or not engine.texts:
        return False
    encoder = _default()
    types = [t for t, known in engine.texts.items() if known.dim == encoder.dim]
    if not types:
        return False
    try:
        for node_type in types:
            _require_default_encoder(engine, node_type)
    except AlignmentError:
        return False
    encoder.encode(["warm"])
    return True


_trained_on_default: WeakSet[TrainedSide] = WeakSet()


def _require_default_encoder(engine: ColdStartEngine, node_type: str) -> None:
    """Raise where the vectors given at training are not the default encoder's.

    A few known texts are encoded again (or read from the cache) and compared; they may have been
    encoded in other company or on another device, hence the tolerance.
    """
    from encoders.embed import embed_nodes

    side, _ = engine._side(node_type)
    if side in _trained_on_default:
        return
    known = engine.texts[node_type].matrix
    rows = np.flatnonzero(np.abs(known).sum(axis=1) > 0)[:3]
    if not len(rows):
        return
    again = embed_nodes(
        graph_of_rows(engine.graph, node_type, rows), _default(), [node_type], cache=engine.cache
    )[node_type].matrix
    same = again.shape[1] == known.shape[1]
    if same:
        lengths = np.linalg.norm(again, axis=1) * np.linalg.norm(known[rows], axis=1)
        cosine = (again * known[rows]).sum(axis=1) / np.maximum(lengths, 1e-12)
        same = bool(cosine.max() > 0.98)  # one of them may have been given by hand since
    if not same:
        raise AlignmentError(
            f"the engine was trained on text vectors of {node_type} that the default encoder did "
            "not make; pass texts= with vectors of the new and changed nodes, or fit with encoder="
        )
    _trained_on_default.add(side)


def graph_of_rows(graph: KnowledgeGraph, node_type: str, rows: np.ndarray) -> KnowledgeGraph:
    """A graph with some nodes of one type and no edges, to encode only their texts."""
    vocabularies, attributes = {}, {}
    for each in {graph.schema.user, graph.schema.item, node_type}:
        some = rows if each == node_type else np.empty(0, np.int64)
        vocabularies[each] = graph.vocabularies[each].take(some)
        attributes[each] = take_rows(graph.attributes[each], some)
    return KnowledgeGraph(graph.schema, vocabularies, attributes, {})


def tell_unlearnt(engine: ColdStartEngine, delta: GraphDelta) -> None:
    """Say in the log which categories nothing was learnt of: they count like none.

    Of people it says the property alone.
    """
    schema = engine.graph.schema
    for node_type, side in ((schema.user, engine.users), (schema.item, engine.items)):
        if (changed := delta.nodes.get(node_type)) is None:
            continue
        for group in side.propagation.groups:
            if not isinstance(group, Category) or group.categorical not in changed.column_names:
                continue
            every = category_values(changed, group.categorical, node_type)
            if unlearnt := sorted({v for values in every for v in values}.difference(group.values)):
                log.warning(
                    "%s.%s: nobody had %s at training, so that counts like no value; known are %s",
                    *(node_type, group.categorical),
                    "some of its values" if node_type == schema.user else _some(unlearnt),
                    _some(list(group.values)),
                )


def _some(values: list[str], most: int = 5) -> str:
    more = len(values) - most
    return ", ".join(map(repr, values[:most])) + (f" and {more} more" if more > 0 else "")


def new_node(
    engine: ColdStartEngine,
    node_type: str,
    links: Mapping[EdgeType, Sequence[Key] | Mapping[Key, float]],
    properties: Mapping[str, Any],
    text: np.ndarray | None,
    vectors: Mapping[str, np.ndarray],
    on_unknown: Literal["error", "skip"],
) -> np.ndarray:
    """See :meth:`coldstart.engine.ColdStartEngine.embed_new`."""
    schema = engine.graph.schema
    side, _ = engine._side(node_type)
    roles = (schema.text, schema.numeric, schema.categorical)
    named = {name for role in roles for name in role.get(node_type, ())}
    if unknown := sorted(properties.keys() - named):
        raise ValueError(
            f"properties {unknown} of a {node_type} are no features; "
            f"the schema names {sorted(named)}"
        )
    inputs, positives, strengths = _inputs_of_new(
        engine, node_type, links, properties, text, on_unknown
    )
    if engine.vectors or vectors:
        inputs = replace(inputs, vectors=of_one(engine.vectors.get(node_type, {}), vectors))
    is_user = node_type == schema.user
    other, others = (
        (engine.items, engine.item_vectors) if is_user else (engine.users, engine.user_vectors)
    )
    gain = 1.0
    if not is_user:
        gain = engine.gain_at(newness_since_training(float(len(positives)), 0.0))
    if others.device.type == "cpu":
        return gain * embed_single(side, inputs, positives, other, others, strengths)
    prior = priors(side, inputs, np.zeros(1, np.int64), others.device)
    number = len(positives)
    one = Adjacency(np.array([0, number]), np.arange(number), number, strengths)
    seen = rotated_rows(other, others, positives)
    found = posteriors(side, inputs.rows, prior, one, seen, other.spectrum)
    return gain * found[0].cpu().numpy()


def _inputs_of_new(
    engine: ColdStartEngine,
    node_type: str,
    links: Mapping[EdgeType, Sequence[Key] | Mapping[Key, float]],
    properties: Mapping[str, Any],
    text: np.ndarray | None,
    on_unknown: Literal["error", "skip"],
) -> tuple[NodeInputs, np.ndarray, np.ndarray | None]:
    """What a node that is not in the graph is embedded from.

    Returns:
        Inputs, rows of its positives, and how strong these are.
    """
    graph, schema = engine.graph, engine.graph.schema
    relations: dict[str, Adjacency] = {}
    same_type: dict[str, Adjacency] = {}
    positives, strengths = np.empty(0, np.int64), None
    for edge_type, keys in links.items():
        edge_type = as_edge_type(edge_type)
        if node_type not in (edge_type[0], edge_type[2]):
            raise ValueError(f"links {edge_type} do not touch a {node_type}")
        require_edge_type(graph, edge_type, "links")
        end = edge_type[2] if edge_type[0] == node_type else edge_type[0]
        nodes = graph.vocabularies.get(end, Vocabulary(end, []))
        weights = None
        if isinstance(keys, Mapping):
            weights = _weights_of_new(graph, edge_type, keys)
        listed = keys if isinstance(keys, str | bytes) else list(keys)  # a string is refused
        found = nodes.rows(
            listed,
            missing="error" if on_unknown == "error" else "mark",
            advice="check the key, add the node first, or pass on_unknown='skip'",
        )
        kept = found >= 0
        if weights is not None and schema.positive_weight is not None:
            kept &= weights >= schema.positive_weight
        rows, first = np.unique(found[kept], return_index=True)
        if edge_type == schema.interaction:
            positives = rows
            if weights is not None and engine.strengths is not None:
                strengths = engine.strengths(weights[kept][first])
        elif name := engine.relation_names[node_type].get(edge_type):
            one = Adjacency(np.array([0, len(rows)]), rows, len(nodes))
            (same_type if end == node_type else relations)[name] = one
    known = engine.texts.get(node_type)
    if known is None and text is not None:
        raise ValueError(f"the engine was trained without texts of {node_type}; leave text= out")
    if isinstance(text, str):
        raise ValueError(
            f"text= of a {node_type} is the vector of its text, got a string; give the string in "
            "properties=, whose words count, and as text= what the encoder makes of it: "
            "encoders.embed.embed_texts([text])[0], by the encoder you fitted with"
        )
    if known is not None:
        text = np.zeros(known.dim, np.float32) if text is None else np.asarray(text, np.float32)
        if text.shape != (known.dim,):
            raise ValueError(
                f"text= of a {node_type}: expected [{known.dim}] floats, as in training, got "
                f"{list(text.shape)}"
            )
        text = text[None]
    texts = [properties.get(p) for p in schema.text.get(node_type, ())]
    wording = " ".join(str(text) for text in texts if text)
    inputs = NodeInputs(
        np.array([graph.num_nodes(node_type)]),
        text,
        relations,
        same_type,
        {
            name: np.array([_number(graph, node_type, name, properties.get(name))])
            for name in schema.numeric.get(node_type, ())
        },
        {p: [_categories(properties.get(p))] for p in schema.categorical.get(node_type, ())},
        peer_text=None if known is None else known.matrix.__getitem__,
        peer_history=engine.user_history if node_type == schema.user and same_type else None,
        wording=lambda rows: [wording],
        far=engine.far_relations[node_type],
    )
    return inputs, positives, strengths


def _weights_of_new(
    graph: KnowledgeGraph, edge_type: EdgeType, weights: Mapping[Key, float]
) -> np.ndarray:
    """Weights of interactions, float64 ``[n]``."""
    if edge_type != graph.schema.interaction or graph.interactions.weight is None:
        raise ValueError(
            f"links {edge_type}: weights came for its keys, and it has none; give a list of keys"
        )
    column = pa.chunked_array([pa.array(list(weights.values()), pa.float64())])
    return finite_array(column, f"links {edge_type}, weights")


def _number(graph: KnowledgeGraph, node_type: str, name: str, value: Any) -> float:
    return number_of(value, graph.attributes[node_type][name].type, f"{node_type}.{name}")


def _categories(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(v) for v in value] if isinstance(value, list | tuple) else [str(value)]
