"""What stands behind a recommendation: counts, parts of the score that add up, a confidence."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from gnn.data import NodeInputs, feature_edge_types, node_inputs
from gnn.train import TrainedSide
from kg.graph import KnowledgeGraph
from kg.growing import taken
from kg.tables import text_column

if TYPE_CHECKING:
    from coldstart.engine import ColdStartEngine

_BLOCK_FLOATS = 2**24
"""Size of the largest block of parts that is held at once, of items and of pairs."""


def evidence_of(
    engine: ColdStartEngine, user_rows: np.ndarray, item_rows: np.ndarray
) -> dict[str, np.ndarray]:
    """Evidence of pairs of a user and an item, a column of ``[num_pairs]`` each.

    ``user_`` and ``item_interactions`` are positives, ``_edges`` other edges, ``_unknown_edges``
    those of them that contribute nothing, because their relation or the entity at the far end was
    not there at training (or with a single known node), ``_text`` characters.
    The columns ``part_...`` add up to the score: a feature group of the item each,
    ``part_interactions`` for what the item's own positives say, ``part_popularity`` for the
    constant group and the item's bias. ``confidence`` is between 0 and 1: the geometric mean of how
    much is known of the user and of the item, where a node with n interactions and features that
    explain a share f of its kind's plain factors is known to 1 - (1 - n / (n + rho)) (1 - f). It is
    no probability; what it says of hits is measured in ``benchmarks/quality/confidence.py``.
    """
    schema = engine.graph.schema
    out: dict[str, np.ndarray] = {}
    known = {}
    for name, node_type, rows in (
        ("user", schema.user, user_rows),
        ("item", schema.item, item_rows),
    ):
        side, _ = engine._side(node_type)
        some, back = np.unique(rows, return_inverse=True)
        inputs = _links_of(engine, node_type, some)
        counts = node_counts(engine, node_type, some, inputs)
        out |= {f"{name}_{what}": values[back] for what, values in counts.items()}
        told = _has_properties(engine.graph, node_type, some)
        told |= side.propagation.known_from_afar(inputs)
        known[name] = _known(side, counts, told)[back]
    out |= _parts(engine, user_rows, item_rows)
    out["confidence"] = np.sqrt(known["user"] * known["item"]).astype(np.float32)
    return out


def node_counts(
    engine: ColdStartEngine, node_type: str, rows: np.ndarray, inputs: NodeInputs | None = None
) -> dict[str, np.ndarray]:
    """Positives, other edges and text characters of some nodes, int64 ``[len(rows)]`` each.

    Args:
        engine: the engine.
        node_type: users or items.
        rows: of the nodes.
        inputs: with their links, where they have been looked up before.
    """
    graph = engine.graph
    edges = np.zeros(len(rows), np.int64)
    later = np.zeros(len(rows), np.int64)  # edges of relations that were not there at training
    for edge_type in feature_edge_types(graph.edge_types, graph, node_type):
        for end in (0, 1):
            if edge_type[2 * end] == node_type:
                _, here = graph.edges[edge_type].touching(end, rows)
                counts = np.bincount(here, minlength=len(rows))
                edges += counts
                later += counts if edge_type not in engine.feature_edges else 0
    side, _ = engine._side(node_type)
    inputs = _links_of(engine, node_type, rows) if inputs is None else inputs
    unknown = side.propagation.unknown_links(inputs, np.arange(len(rows)))
    characters = np.zeros(len(rows), np.int64)
    table = graph.attributes[node_type]
    for name in graph.schema.text.get(node_type, ()):
        if name in table.column_names:
            values = text_column(taken(table[name], rows))
            characters += np.array([len(v or "") for v in values], np.int64)
    return {
        "interactions": engine._links(node_type, rows).degrees,
        "edges": edges,
        "unknown_edges": later + unknown,
        "text": characters,
    }


def _links_of(engine: ColdStartEngine, node_type: str, rows: np.ndarray) -> NodeInputs:
    """Inputs without texts."""
    return node_inputs(engine.graph, node_type, None, rows=rows, edge_types=engine.feature_edges)


def _has_properties(graph: KnowledgeGraph, node_type: str, rows: np.ndarray) -> np.ndarray:
    """Whether a node has any number or category that the schema names, bool ``[len(rows)]``."""
    out = np.zeros(len(rows), bool)
    table = graph.attributes[node_type]
    for properties in (graph.schema.numeric, graph.schema.categorical):
        for name in properties.get(node_type, ()):
            if name in table.column_names:
                out |= taken(table[name], rows).is_valid().to_numpy()
    return out


def _known(side: TrainedSide, counts: dict[str, np.ndarray], told: np.ndarray) -> np.ndarray:
    n = counts["interactions"]
    known_edges = counts["edges"] - counts["unknown_edges"]
    has_features = told | (known_edges + counts["text"] > 0)
    exposure = np.where(n > 0, n / (n + side.precision), 0.0)
    return 1 - (1 - exposure) * (1 - side.reliability * has_features)


def _parts(
    engine: ColdStartEngine, user_rows: np.ndarray, item_rows: np.ndarray
) -> dict[str, np.ndarray]:
    names = [*engine.items.propagation.names, "interactions"]
    items, back = np.unique(item_rows, return_inverse=True)
    parts = np.zeros((len(item_rows), len(names)), np.float32)
    device = engine.user_vectors.device
    step = max(1, _BLOCK_FLOATS // (len(names) * engine.dim))
    order = np.argsort(back, kind="stable")  # pairs of one item together
    bounds = np.searchsorted(back[order], np.arange(0, len(items) + step, step))
    for block, (first, last) in enumerate(pairwise(bounds.tolist())):
        start = block * step
        vectors = engine.item_parts(items[start : start + step])
        for at in range(first, last, step):
            pairs = order[at : min(at + step, last)]
            u = engine.user_vectors[torch.from_numpy(user_rows[pairs]).to(device)]
            of_pair = vectors[torch.from_numpy(back[pairs] - start).to(device)]
            parts[pairs] = torch.einsum("ngk,nk->ng", of_pair, u).cpu().numpy()
    out = {f"part_{name}": parts[:, i] for i, name in enumerate(names) if name != "constant"}
    known, new = (torch.from_numpy(rows).to(device) for rows in (user_rows, item_rows))
    bias = (engine.cold_boost * engine.familiarity[known] * engine.newness[new]).cpu().numpy()
    popularity = parts[:, names.index("constant")] if "constant" in names else 0
    out["part_popularity"] = (popularity + bias).astype(np.float32)
    return out
