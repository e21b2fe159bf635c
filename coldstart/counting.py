"""Baselines that count and compare: popularity, neighbours, and what people alike have liked.

Each is a family as :mod:`coldstart.baselines` describes them: fitted on training data, it gives a
scorer for every setting of its grid.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from scipy import sparse

from coldstart.scorer import HistoryScorer, ProductScorer, Scorer
from coldstart.training_data import Settings, TrainingData
from gnn.groups import Text

TEXT_NEIGHBOURS = (10, 50, 200)
"""Neighbourhood sizes of text kNN."""

ITEM_NEIGHBOURS = (20, 50, 100, 200)
"""Neighbourhood sizes of item kNN."""

SHRINKAGE = (0.0, 10.0, 50.0, 200.0)
"""Added to the denominator of the cosine, so that few common users count for less."""

SMOOTHING = (1.0, 10.0, 100.0, 1000.0)
"""Interactions of average users that every item is given in naive Bayes."""

TEMPERING = (0.25, 0.5, 1.0)
"""Weight of the attributes beside popularity; 1 takes them for independent."""

NUM_BINS = 5
"""Numbers of users are cut at quantiles into so many bins for naive Bayes."""


def popularity(data: TrainingData) -> Settings:
    """Number of training interactions of an item; cold items tie."""
    counts = np.asarray(data.matrix.sum(axis=0), dtype=np.float32)
    ones = np.ones((len(data.graph.users), 1), np.float32)
    return {"popularity": lambda: ProductScorer(ones, counts.T)}


def text_knn(data: TrainingData) -> Settings:
    """Mean similarity of an item's text to the nearest texts in a user's history."""
    text = data.texts.get(data.graph.schema.item)
    if text is None:
        return {}
    group = Text.fit("text", "text", data.inputs(data.graph.schema.item), data.warm_items)
    every, cpu = np.arange(len(text)), torch.device("cpu")
    x = group.raw(data.inputs(data.graph.schema.item), every, cpu).numpy()
    history = data.matrix[:, data.warm_items]

    def make(k: int) -> Scorer:
        return HistoryScorer(history, _nearest(x @ x[data.warm_items].T, k).T)

    return {f"k={k}": partial(make, k) for k in TEXT_NEIGHBOURS}


def item_knn(data: TrainingData) -> Settings:
    """Sum over a user's history of the cosines with an item's nearest items; cold items tie.

    The cosine of two items is that of their columns of interactions, n_ij / (sqrt(n_i n_j) +
    shrinkage), kept for the k nearest items of each.

    Source: Sarwar et al. (2001), Item-based collaborative filtering recommendation algorithms,
    eq. 1, with the shrinkage of Bell and Koren (2007).
    """
    x = data.matrix[:, data.warm_items]
    together = np.asarray((x.T @ x).todense(), dtype=np.float32)
    length = np.sqrt(np.diag(together))
    np.fill_diagonal(together, 0)

    def make(k: int, shrinkage: float) -> Scorer:
        nearest = _nearest(together / (length[:, None] * length + shrinkage), k).tocoo()
        places = nearest.col, data.warm_items[nearest.row]
        shape = len(length), len(data.graph.items)
        return HistoryScorer(x, sparse.csc_matrix((nearest.data, places), shape=shape))

    return {
        f"k={k} shrinkage={shrinkage:g}": partial(make, k, shrinkage)
        for k in ITEM_NEIGHBOURS
        for shrinkage in SHRINKAGE
    }


def naive_bayes(data: TrainingData) -> Settings:
    """Popularity among people with the same attributes: log P(i) + t sum_a log P(a | i) / P(a).

    Attributes are categories, linked entities and numbers (in bins); those that a user lacks say
    nothing. P(a | i) is smoothed by users like all others, of whom every item gets some. The weight
    t tempers that attributes hang together. Users without attributes get the popular items.

    Source: Manning, Raghavan and Schütze (2008), Introduction to information retrieval, section
    13.2, with items as classes; ours smooths towards the attribute's share among all users, not
    towards equal shares, and tempers.
    """
    attributes = _attributes(data)
    if attributes is None:
        return {}
    warm = attributes[data.warm_users]
    x = data.matrix[data.warm_users]
    share = np.asarray(warm.sum(axis=0)).ravel()[:, None] / len(data.warm_users)
    told = np.asarray((warm.T @ x).todense(), dtype=np.float64)  # [num_attributes, num_items]
    count = np.asarray(x.sum(axis=0), dtype=np.float64).ravel()
    popular = np.log((count + 1) / (count.sum() + len(count))).astype(np.float32)

    def make(smoothing: float, weight: float) -> Scorer:
        lift = (told + smoothing * share) / (count + smoothing) / np.maximum(share, 1e-12)
        lift[share[:, 0] == 0] = 1.0  # no warm user has it
        ratio = np.log(lift)
        items = np.column_stack([weight * ratio.T.astype(np.float32), popular])
        users = sparse.hstack([attributes, np.ones((len(data.graph.users), 1), np.float32)])
        return HistoryScorer(sparse.csr_matrix(users), items.T)

    return {
        f"smoothing={smoothing:g} weight={weight:g}": partial(make, smoothing, weight)
        for smoothing in SMOOTHING
        for weight in TEMPERING
    }


def _nearest(similarity: np.ndarray, k: int) -> sparse.csr_matrix:
    """The k largest values of each row, ties included."""
    if k < similarity.shape[1]:
        least = np.partition(similarity, -k, axis=1)[:, -k][:, None]
        similarity = np.where(similarity >= least, similarity, 0)
    return sparse.csr_matrix(similarity)


def _attributes(data: TrainingData) -> sparse.csr_matrix | None:
    """Which user has which category, entity or bin of a number, ``[num_users, num_attributes]``."""
    inputs = data.inputs(data.graph.schema.user)
    blocks = []
    for values in inputs.categorical.values():
        known = sorted({value for row in values for value in row})
        place = {value: column for column, value in enumerate(known)}
        pairs = [(user, place[value]) for user, row in enumerate(values) for value in row]
        blocks.append(_one_hot(np.array(pairs, np.int64).reshape(-1, 2).T, len(inputs), len(known)))
    for links in inputs.relations.values():
        pairs = np.stack([links.sources, links.indices])
        blocks.append(_one_hot(pairs, len(inputs), links.num_targets))
    for numbers in inputs.numeric.values():
        there = np.flatnonzero(~np.isnan(numbers))
        warm = numbers[np.intersect1d(there, data.warm_users)]
        if len(warm):
            edges = np.unique(np.quantile(warm, np.linspace(0, 1, NUM_BINS + 1)[1:-1]))
            bins = np.searchsorted(edges, numbers[there], side="right")
            blocks.append(_one_hot(np.stack([there, bins]), len(inputs), len(edges) + 1))
    return sparse.csr_matrix(sparse.hstack(blocks)) if blocks else None


def _one_hot(pairs: np.ndarray, number: int, width: int) -> sparse.csr_matrix:
    ones = np.ones(pairs.shape[1], np.float32)
    return sparse.csr_matrix((ones, (pairs[0], pairs[1])), shape=(number, width))
