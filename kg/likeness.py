"""Whether a relation links nodes that are alike: against the same links shuffled, and in figures.

Two nodes are alike where they share users (or items), or words and entities. A relation tells
something about a node if the nodes it links are more alike than they are after its links were
shuffled. Shuffling keeps how many links every node and every entity has, so that popular films
with many known actors are not taken for informative ones.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from kg.graph import KnowledgeGraph
from kg.schema import EdgeType
from kg.tables import text_column

WIDTH = 1024
"""Numbers a profile is projected to; random signs keep products on average."""
MAX_LINKS = 200_000
"""Links of one relation that are looked at, chosen at random."""
NUM_SHUFFLES = 40
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Excess:
    """How much more alike linked nodes are than chance.

    Args:
        deviations: ``(observed - mean of shuffled) / standard deviation of shuffled``; NaN where
            there is too little to tell.
        observed: mean likeness (cosine) of linked nodes.
        shuffled: the same for shuffled links, mean of :data:`NUM_SHUFFLES`.
        num_links: links between nodes that have a profile and something to be linked with.
    """

    deviations: float
    observed: float
    shuffled: float
    num_links: int


def taste_profiles(graph: KnowledgeGraph, node_type: str, rng: np.random.Generator) -> np.ndarray:
    """Profiles of users by their positive items, or of items by their positive users.

    Returns:
        float32 ``[num_nodes, width]``, rows of unit length, zero without positives.
    """
    users, items = graph.positives()
    here, there = (users, items) if node_type == graph.schema.user else (items, users)
    other = graph.schema.item if node_type == graph.schema.user else graph.schema.user
    shape = (graph.num_nodes(node_type), graph.num_nodes(other))
    return profiles(sparse.csr_array((np.ones(len(here)), (here, there)), shape=shape), rng)


def content_profiles(
    graph: KnowledgeGraph, node_type: str, without: EdgeType, rng: np.random.Generator
) -> np.ndarray:
    """Profiles by the words of a node's texts and the entities of all relations but one.

    Returns:
        float32 ``[num_nodes, width]``, rows of unit length, zero where nothing is known.
    """
    num_nodes = graph.num_nodes(node_type)
    parts = [_words(graph, node_type)]
    for edge_type, edges in graph.edges.items():
        if edge_type in (without, graph.schema.interaction):
            continue
        for end, other in ((0, 2), (2, 0)):
            if edge_type[end] == node_type and edge_type[other] != node_type:
                rows, columns = edges.index[end // 2], edges.index[other // 2]
                shape = (num_nodes, graph.num_nodes(edge_type[other]))
                one = sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)
                one.data[:] = 1
                parts.append(one)
    return profiles(sparse.csr_array(sparse.hstack(parts)), rng)


def _words(graph: KnowledgeGraph, node_type: str) -> sparse.csr_array:
    table, known = graph.attributes[node_type], {}
    rows: list[int] = []
    columns: list[int] = []
    for name in graph.schema.text.get(node_type, ()):
        if name in table.column_names:
            for row, text in enumerate(text_column(table[name])):
                for word in set(_WORD.findall((text or "").casefold())):
                    rows.append(row)
                    columns.append(known.setdefault(word, len(known)))
    shape = (graph.num_nodes(node_type), max(len(known), 1))
    return sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)


def profiles(counts: sparse.csr_array, rng: np.random.Generator) -> np.ndarray:
    """Rows less what their sums would let expect, rare columns weighing more, of unit length.

    Columns are projected to :data:`WIDTH` by random signs where there are more.
    """
    by_row, by_column = (np.asarray(counts.sum(axis=axis), np.float32) for axis in (1, 0))
    num_columns = len(by_column)
    weight = 1 / np.sqrt(np.maximum(by_column, 1))
    share = by_column * weight / max(by_column.sum(), 1)
    scaled = sparse.csr_array(counts @ sparse.diags_array(weight))
    if num_columns > WIDTH:
        # Each column goes to one place with a sign: cheap, and right on average like dense signs.
        place, sign = rng.integers(0, WIDTH, num_columns), rng.choice([-1.0, 1.0], num_columns)
        project = sparse.csr_array(
            (sign, (np.arange(num_columns), place)), shape=(num_columns, WIDTH), dtype=np.float32
        )
        scaled, share = sparse.csr_array(scaled @ project), share @ project
    out = scaled.toarray().astype(np.float32)
    out[by_row > 0] -= by_row[by_row > 0, None] * share[None].astype(np.float32)
    lengths = np.linalg.norm(out, axis=1, keepdims=True)
    return np.divide(out, lengths, out=np.zeros_like(out), where=lengths > 1e-6)


def excess_likeness(
    profile: np.ndarray,
    here: np.ndarray,
    there: np.ndarray,
    rng: np.random.Generator,
    *,
    same_type: bool,
    min_links: int,
) -> Excess:
    """How much more alike the nodes are that a relation links than those of shuffled links.

    Args:
        profile: unit or zero rows, ``[num_nodes, width]``.
        here: rows of nodes, one per link.
        there: rows of the entities they are linked to, or of nodes where ``same_type``.
        rng: chooses and shuffles.
        same_type: whether a link joins two nodes, not a node and an entity.
        min_links: with fewer there is too little to tell.
    """
    known = np.linalg.norm(profile, axis=1) > 0
    keep = known[here] & (known[there] if same_type else True)
    here, there = here[keep], there[keep]
    if not same_type:  # an entity with one node links nothing
        keep = np.bincount(there, minlength=1)[there] > 1 if len(there) else keep[:0]
        here, there = here[keep], there[keep]
    if len(here) > MAX_LINKS:
        some = np.sort(rng.choice(len(here), MAX_LINKS, replace=False))
        here, there = here[some], there[some]
    if len(here) < min_links:
        return Excess(float("nan"), float("nan"), float("nan"), len(here))
    mean = _mean_of_pairs if same_type else _mean_of_entities
    observed = mean(profile, here, there)
    shuffled = [mean(profile, here, rng.permutation(there)) for _ in range(NUM_SHUFFLES)]
    spread = float(np.std(shuffled, ddof=1))
    gap = observed - float(np.mean(shuffled))
    deviations = gap / spread if spread > 1e-9 else float("nan")
    return Excess(deviations, observed, float(np.mean(shuffled)), len(here))


def _mean_of_pairs(profile: np.ndarray, here: np.ndarray, there: np.ndarray) -> float:
    apart = here != there
    return float(np.einsum("nd,nd->n", profile[here[apart]], profile[there[apart]]).mean())


def _mean_of_entities(profile: np.ndarray, here: np.ndarray, there: np.ndarray) -> float:
    """Mean over links of a node's likeness to the others of the entity."""
    entities, place = np.unique(there, return_inverse=True)
    links = sparse.csr_array(
        (np.ones(len(here), np.float32), (place, here)), shape=(len(entities), len(profile))
    )
    links.sum_duplicates()
    links.data[:] = 1  # shuffling may name a pair twice
    size = links.sum(axis=1)
    sums = links @ profile
    among = np.einsum("ed,ed->e", sums, sums) - size  # rows have unit length
    several = size > 1
    return float((among[several] / (size[several] - 1)).sum() / max(size[several].sum(), 1))


def copied_share(
    graph: KnowledgeGraph, edge_type: EdgeType, rng: np.random.Generator
) -> tuple[float, list[tuple[int, int]]]:
    """Which share of item-item links go to the items with the most users in common.

    A relation made from interactions ("also bought") has nearly all of its links there. For each of
    up to 1000 items, as many neighbours by common positive users (cosine) are taken as it has
    links, at least five.

    Returns:
        The share, NaN where no two items with positives are linked, and a few such links as rows.
    """
    users, items = graph.positives()
    num_items = graph.num_nodes(graph.schema.item)
    seen = sparse.csr_array(
        (np.ones(len(items), np.float32), (items, users)), shape=(num_items, len(graph.users))
    )
    degree = seen.sum(axis=1)
    source, target = graph.edges[edge_type].index
    keep = (degree[source] > 0) & (degree[target] > 0) & (source != target)
    source, target = source[keep], target[keep]
    if not len(source):
        return float("nan"), []
    asked = np.unique(source)
    if len(asked) > 1000:
        asked = np.sort(rng.choice(asked, 1000, replace=False))
    lengths = sparse.diags_array(1 / np.sqrt(np.maximum(degree, 1)))
    unit = sparse.csr_array(lengths @ seen)
    hits: list[tuple[int, int]] = []
    total = 0
    for item in asked:
        linked = np.unique(target[source == item])
        common = (unit @ unit[[item]].T).toarray()[:, 0]
        common[item] = 0
        width = min(max(5, len(linked)), num_items - 1)
        top = np.argpartition(-common, width - 1)[:width]
        hits += [(int(item), int(t)) for t in linked if common[t] > 0 and t in top]
        total += len(linked)
    return len(hits) / total, hits[:5]


def shuffled_links(
    graph: KnowledgeGraph, edge_types: Sequence[EdgeType], rng: np.random.Generator
) -> KnowledgeGraph:
    """The graph with the targets of some relations dealt out anew; what an audit must not pass."""
    for edge_type in edge_types:
        edges = graph.edges[edge_type]
        index = np.stack([edges.index[0], rng.permutation(edges.index[1])])
        graph = graph.with_edges(edge_type, type(edges)(index, edges.weight, edges.time))
    return graph
