"""How much to lift cold items among warm ones, from training data alone."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch

from coldstart.judging import calibrate_on_several
from coldstart.scorer import CosineBiasScorer
from coldstart.splits import Task
from gnn.data import Adjacency, NodeInputs
from gnn.exposure import exposure_by_count
from gnn.infer import warm_positions
from gnn.raws import apply
from gnn.train import Trained, TrainedSide
from kg.graph import KnowledgeGraph

Values = TypeVar("Values", float, torch.Tensor)

COLD_SHARE = 0.1
"""Share of the warm items that play cold, and of the other interactions that play unknown."""

MAX_USERS, MAX_ITEMS = 2000, 5000

ENOUGH_USERS, MAX_TIMES = 1000, 4
"""A simulation is repeated until so many users were asked, and at most so many times.

On a toy graph where one asks 7 to 15 users, four in place of one gave .030 +- .021 in NDCG@20 of
mixed lists (eight splits), on one with 50 to 60 .003 +- .002 (six). MovieLens 100K has two.
"""

COLD_GAIN = 1.25
"""The embedding of an item without history is so much longer than what features foretell.

Predictions are drawn to their mean, and so lie closer together than the embeddings of known items.
Among new items that changes no list; among new and known ones it hides the best of the new, and a
lift, which is the same for all, makes up for that with many that nobody wants.
"""

HALF_NEW = 10
"""With so many interactions an item is half as new as without."""

FAMILIAR_SHARE = 0.1
"""A user with this share of the mean positives gets half the lift of new items.

Those of whom little is known have weak tastes, and a lift that is right for the others would put
what is new, and nobody knows of, in place of what nearly everybody likes.
"""


def simulated_cold_boost(
    trained: Trained, item_inputs: NodeInputs, rng: np.random.Generator
) -> float:
    """The lift under which left-out items and left-out interactions rank best together.

    A tenth of the warm items, of all popularities, play cold, and a tenth of the interactions of
    the others play unknown: training is done again without them, with the weights and precisions
    that it had found (:mod:`gnn.rehearsal`). Items without any interaction stand between them, as
    many as are likely to be old ones that nobody wanted (:func:`unwanted`), for a lift raises
    these, too. The lift is the one with the best NDCG@20 over warm and cold candidates. No
    validation data. Where few users can be asked, the same is done several times with other items,
    and the lift is the best over all.

    Args:
        trained: both sides.
        item_inputs: of all items.
        rng: chooses who plays cold.
    """
    simulations: list[tuple[CosineBiasScorer, Task]] = []
    num_users = 0
    for _ in range(MAX_TIMES):
        if (simulated := _simulated(trained, item_inputs, rng)) is None:
            continue
        simulations.append(simulated)
        num_users += len(simulated[1].users)
        if num_users >= ENOUGH_USERS:
            break
    shares = [scorer.share_of_bias(task.users) for scorer, task in simulations]
    return calibrate_on_several(simulations, shares=shares) if simulations else 0.0


def _simulated(
    trained: Trained, item_inputs: NodeInputs, rng: np.random.Generator
) -> tuple[CosineBiasScorer, Task] | None:
    """What ranks in one simulation, and what is asked; ``None`` where nobody can be asked."""
    side, links = trained.items, trained.rehearsal.links
    user, item = links.sources, links.indices
    counts = np.bincount(item)
    asked = np.arange(len(counts))
    if len(asked) > MAX_ITEMS:
        asked = np.sort(rng.choice(len(asked), MAX_ITEMS, replace=False))
    inside = np.isin(item, asked)
    cold = np.zeros(len(counts), bool)
    cold[asked] = _some_of_all_popularities(counts[asked], rng)
    unknown = inside & ~cold[item] & (rng.random(len(item)) < COLD_SHARE)
    hidden = cold[item] | unknown
    users = np.intersect1d(user[unknown], user[cold[item]])
    if not len(users) or hidden.all():
        return None
    if len(users) > MAX_USERS:
        users = np.sort(rng.choice(users, MAX_USERS, replace=False))
    found = trained.rehearsal.without(hidden, rng)

    bare = np.setdiff1d(np.arange(len(item_inputs.rows)), side.warm)
    number = min(len(bare), round(unwanted(counts) * len(asked) / len(counts)))
    bare = np.sort(rng.choice(bare, number, replace=False))
    device = found.items.device
    vectors = found.items[torch.from_numpy(asked).to(device)]
    if number:
        raws = side.propagation.raw(item_inputs, bare, device)
        vectors = torch.cat([vectors, apply(raws, found.tables)])
    new = np.append(found.cold[asked], np.ones(number, bool))
    vectors[torch.from_numpy(new).to(device)] *= COLD_GAIN
    candidates = np.arange(len(vectors))

    def positions(which: np.ndarray) -> Adjacency:
        here = links.select(which & inside).take(users)
        return Adjacency(here.indptr, np.searchsorted(asked, here.indices), len(candidates))

    relevant, excluded = positions(hidden), positions(~hidden)
    task = Task("mixed", "train", users, candidates, relevant, excluded, new)
    visible = np.bincount(user[~hidden], minlength=len(links))
    scorer = CosineBiasScorer(
        found.users.cpu().numpy(),
        vectors.cpu().numpy(),
        np.zeros(len(vectors), np.float32),
        familiarity(visible, half_familiar(links)).numpy(),
    )
    return scorer, task


def _some_of_all_popularities(counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Items that play cold, one of every ten that are next to each other by popularity.

    Drawn without regard to it, most of the very popular items play cold in one simulation and none
    of them in another, and the lift that is best for the one is too much for the other.

    Args:
        counts: interactions of every item, int64 ``[num_items]``.
        rng: chooses.

    Returns:
        bool ``[num_items]``.
    """
    order = np.lexsort([rng.random(len(counts)), counts])
    blocks = np.array_split(order, max(1, round(COLD_SHARE * len(counts))))
    cold = np.zeros(len(counts), bool)
    cold[[rng.choice(block) for block in blocks]] = True
    return cold


def unwanted(counts: np.ndarray) -> float:
    """How many old items have no interaction because nobody wants them.

    f_n is how many items have n interactions. About f_0 = f_1 (f_1 - 1) / (2 (f_2 + 1)) have none.
    Together they are wanted as much as the f_1 that have one (each of all interactions to come is
    with one of them by f_1 / N), as much as f_1 S / N items of the mean demand N / S: so many of
    them are not unwanted, but unseen.

    Source: Chao (1984), Nonparametric estimation of the number of classes in a population, in its
    form without bias; Good (1953), The population frequencies of species.

    Args:
        counts: interactions of the S items that have any, N in all, int64 ``[S]``.
    """
    once, twice = (counts == 1).sum(), (counts == 2).sum()
    bare = once * (once - 1) / (2 * (twice + 1))
    return max(0.0, float(bare - once / counts.mean()))


def newness(graph: KnowledgeGraph, side: TrainedSide, rows: np.ndarray) -> torch.Tensor:
    """How new some items are, 0 to 1, float32 ``[len(rows)]``: 1 / (1 + n_i / h) / (1 + m_i).

    The embedding of an item is made longer, and its bias higher, in proportion. n_i counts its
    positives, h is :data:`HALF_NEW`. m_i counts its interactions that are not positive: an item
    that was only ever disliked is not new. For one that was there at training what its exposure of
    then lacks of 1 is a further factor: 0 unless it came late.

    Args:
        graph: with all interactions.
        side: of the items.
        rows: of the items.
    """
    edges, least = graph.interactions, graph.schema.positive_weight
    at, here = edges.touching(1, rows)
    positions = warm_positions(side, rows)
    there = positions >= 0
    if not len(at) and not there.any():  # all are as new as can be
        return side.reference.new_ones(len(rows))
    positive = np.ones(len(at), bool)
    if least is not None and edges.weight is not None:
        positive = edges.weight[at] >= least
    liked = np.bincount(here[positive], minlength=len(rows))
    not_liked = np.bincount(here[~positive], minlength=len(rows))
    n, m = (torch.from_numpy(counts).to(side.reference) for counts in (liked, not_liked))
    out = newness_since_training(n, m)
    out[torch.from_numpy(there)] *= 1 - side.exposure[torch.from_numpy(positions[there])]
    return out


def half_familiar(links: Adjacency) -> float:
    """h, with so many positives a user is half known: :data:`FAMILIAR_SHARE` of the mean.

    Args:
        links: positives of the users at training.
    """
    return FAMILIAR_SHARE * float(links.degrees.mean())


def familiarity(counts: np.ndarray, half: float) -> torch.Tensor:
    """How well users are known, c_u, float32 ``[num_users]``: n^3 / (n^3 + h^3).

    So far a lift of new items counts for them.

    Args:
        counts: n, distinct positives of every user.
        half: h, see :func:`half_familiar`; with 0 everybody is known.
    """
    numbers = torch.from_numpy(counts.astype(np.float32))
    return exposure_by_count(numbers, half) if half else torch.ones_like(numbers)


def newness_since_training(liked: Values, not_liked: Values) -> Values:
    """Newness of items that were not there at training.

    Args:
        liked: n, positives of each; a tensor or, of one item, a number.
        not_liked: m, other interactions of each.
    """
    return HALF_NEW / (liked + HALF_NEW) / (1 + not_liked)
