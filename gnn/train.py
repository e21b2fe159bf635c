"""Training: group weights by exact cold simulation, then joint sweeps of ridge and ALS."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from gnn.data import Adjacency, NodeInputs
from gnn.exposure import FEW, exposure_by_count
from gnn.groups import FeatureGroup, Raw
from gnn.heads import Spectrum, half_step, implicit_als, warm_half_step
from gnn.popularity import learn_popularity_scale, with_popularity
from gnn.precision import Side, learn_worth
from gnn.propagate import Propagation, fit_propagation
from gnn.raws import apply, gram, select_rows
from gnn.rehearsal import Rehearsal
from gnn.ridge import Ridge, Shrunk, ridge
from gnn.strength import SHARE as STRENGTH_SHARE
from gnn.strength import Strengths, may_count
from gnn.weighting import cold_folds, learn_weights
from kg.settings import check_above, check_at_least, check_share

log = logging.getLogger(__name__)

START_PRECISION = 100.0
"""Of the items' prior, where the search for it starts."""

MOST_ALS_PRECISION = 30.0
"""Of plain ALS; on dense graphs the mean interactions of an item are several times too much."""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of the default propagation; one set serves all graphs.

    Args:
        max_dim: largest embedding size; the size is at most a quarter of the warm items.
        sweeps: joint sweeps of ridge and ALS.
        item_precision: rho of the items' prior; ``None``: found by :mod:`gnn.precision`, from 100.
        user_precision: rho of the users' prior; ``None``: likewise, from the mean interactions of a
            warm item, or 30 where they are more.
        item_prior_scale: how far the items' prior is from its mean, as a share of what their
            features predict, 0 to 1; ``None``: likewise, from 1.
        item_popularity_scale: how far the popularity that features foretell of items is believed,
            as a share, 0 to 1, in the prior of all items; ``None``: found by
            :mod:`gnn.popularity`.
        item_few_share: with so many interactions, as a share of what an item has on average, a
            known item is half exposed; ``None``: found by :mod:`gnn.precision`.
        strength_share: how far the positives of the highest and of the lowest weights are from 1,
            which others are taken for, 0 to 1; ``None``: :data:`gnn.strength.SHARE`, or 0 where
            hidden interactions are clearly found worse with it.
        item_weight_steps: Adam steps on the weights of item groups, of which the best is kept.
        user_weight_steps: likewise on those of user groups.
        weight_rate: their learning rate.
        weight_nodes: at most so many random warm nodes simulate the cold in those steps.
        weight_contexts: and at most so many nodes of the other side look at them.
        weight_dim: those who play cold are looked at in so many leading directions of the
            embeddings; all of them come to the same lists and take longer.

    Raises:
        ValueError: a value is out of range.
    """

    max_dim: int = 512
    sweeps: int = 3
    item_precision: float | None = None
    user_precision: float | None = None
    item_prior_scale: float | None = None
    item_popularity_scale: float | None = None
    item_few_share: float | None = None
    strength_share: float | None = None
    item_weight_steps: int = 24
    user_weight_steps: int = 24
    weight_rate: float = 0.3
    weight_nodes: int = 1200
    weight_contexts: int = 20_000
    weight_dim: int = 128

    def __post_init__(self) -> None:
        check_at_least(1, max_dim=self.max_dim, sweeps=self.sweeps)
        check_at_least(
            0, item_weight_steps=self.item_weight_steps, user_weight_steps=self.user_weight_steps
        )
        check_above(
            0,
            item_precision=self.item_precision,
            user_precision=self.user_precision,
            item_few_share=self.item_few_share,
            weight_rate=self.weight_rate,
        )
        check_share(
            item_prior_scale=self.item_prior_scale,
            item_popularity_scale=self.item_popularity_scale,
            strength_share=self.strength_share,
        )
        check_at_least(
            1,
            weight_nodes=self.weight_nodes,
            weight_contexts=self.weight_contexts,
            weight_dim=self.weight_dim,
        )


@dataclass(frozen=True, eq=False)
class TrainedSide:
    """All that is needed to embed a node of one side; no parameter belongs to a node.

    Args:
        propagation: feature groups.
        weights: learnt w_g of every group, float64 ``[num_groups]``.
        tables: raw features to prior, a float32 ``[width_g, k]`` per group.
        precision: rho of the prior.
        warm: rows of the warm nodes at training, int64 ``[num_warm]``.
        leverage: of the warm nodes in the ridge, float32 ``[num_warm]``.
        reference: what the other side is embedded against, float32 ``[num_warm, k]``.
        reliability: share of the variance of plain ALS factors that features explain, 0 to 1.
        exposure: omega of the warm nodes by time, 0 to 1, float32 ``[num_warm]``.
        few: with so many interactions a warm node is half as exposed.
        prior_scale: of the prior, which tables and leverage have in them; see
            :class:`gnn.ridge.Shrunk`.
        popularity_scale: of the popularity foretold, likewise in the tables.
    """

    propagation: Propagation
    weights: np.ndarray
    tables: list[torch.Tensor]
    precision: float
    warm: np.ndarray
    leverage: torch.Tensor
    reference: torch.Tensor
    reliability: float
    exposure: torch.Tensor
    few: float
    prior_scale: float = 1.0
    popularity_scale: float = 1.0

    def exposed(self, counts: torch.Tensor, at: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """Exposure omega of warm nodes by time and count, ``[n]`` between 0 and 1.

        Args:
            counts: how many positives they have now, ``[n]``.
            at: their positions among the warm nodes; by default all.
        """
        return self.exposure[at] * exposure_by_count(counts, self.few)

    @cached_property
    def spectrum(self) -> Spectrum:
        """Of F'F of the reference; the other side is embedded with it."""
        return Spectrum.of(self.reference)

    @cached_property
    def rotated(self) -> torch.Tensor:
        """The reference in the eigenbasis of F'F, ``[num_warm, k]``."""
        return self.reference @ self.spectrum.vectors

    @cached_property
    def table_views(self) -> list[np.ndarray]:
        """The tables as numpy arrays over the same memory; on a CPU only."""
        return [table.numpy() for table in self.tables]

    @cached_property
    def warm_order(self) -> np.ndarray:
        """Positions of the warm rows in ascending order of row."""
        return np.argsort(self.warm, kind="stable")


@dataclass(frozen=True, eq=False)
class Trained:
    """Both sides after training.

    Args:
        users: for embedding users.
        items: for embedding items.
        user_embeddings: of the warm users, float32 ``[num_users, k]``.
        item_embeddings: of the warm items, float32 ``[num_items, k]``.
        rehearsal: for doing it again with something left out.
        strengths: what positives were taken for by their weights; ``None``: 1.
    """

    users: TrainedSide
    items: TrainedSide
    user_embeddings: torch.Tensor
    item_embeddings: torch.Tensor
    rehearsal: Rehearsal
    strengths: Strengths | None = None


def train(
    user_inputs: NodeInputs,
    item_inputs: NodeInputs,
    positives: np.ndarray,
    config: TrainConfig,
    *,
    weights: np.ndarray | None = None,
    item_exposure: np.ndarray | None = None,
    groups: tuple[Sequence[FeatureGroup], Sequence[FeatureGroup]] | None = None,
    rng: np.random.Generator,
    device: torch.device,
    progress: Callable[[str], None] = log.debug,
) -> Trained:
    """Everything the default propagation learns from a set of positives.

    Args:
        user_inputs: inputs of all users.
        item_inputs: inputs of all items.
        positives: distinct ``[2, num_pairs]`` rows of user and item.
        config: settings.
        weights: of the positives, ``[num_pairs]``, or ``None``: all are alike.
        item_exposure: omega of all items, 0 to 1, ``[num_items]``; ``None``: 1. An item that came
            when most interactions had been made is charged with less of those that it does not
            have.
        groups: features of users and of items beside a constant, see :mod:`gnn.encoding`; by
            default those of the propagation.
        rng: of the ALS start and the nodes that the weights are learnt on.
        device: where the arithmetic happens.
        progress: called with a sentence at every step.

    Raises:
        ValueError: there are no positives.
    """
    if not positives.shape[1]:
        raise ValueError(
            "there are no positive interactions to train on; add some, or lower positive_weight if "
            "the schema has one"
        )
    warm_users, user = np.unique(positives[0], return_inverse=True)
    warm_items, item = np.unique(positives[1], return_inverse=True)
    mean_degree = len(user) / len(warm_items)
    als_precision = min(mean_degree, MOST_ALS_PRECISION)
    k = max(1, min(config.max_dim, len(warm_items) // 4))
    links, strengths = _links(
        (user, item, len(warm_users), len(warm_items)),
        *(weights, config.strength_share, k, als_precision, rng, device),
    )
    back = links.transpose()
    exposure = torch.ones(len(warm_items), device=device)
    if item_exposure is not None:
        exposure = torch.from_numpy(item_exposure[warm_items]).to(exposure)
    user_counts, item_counts = (
        torch.from_numpy(adjacency.degrees).to(exposure) for adjacency in (links, back)
    )
    user_exposure = exposure_by_count(user_counts, FEW)

    progress("features")
    user_groups, item_groups = (None, None) if groups is None else groups
    user_propagation = fit_propagation(user_inputs, warm_users, user_groups)
    item_propagation = fit_propagation(item_inputs, warm_items, item_groups)
    item_raws = item_propagation.raw(item_inputs, warm_items, device)
    user_raws = user_propagation.raw(user_inputs, warm_users, device)

    progress("alternating least squares")
    u, v = implicit_als(links, k, als_precision, rng, device)

    progress("weights of item groups")
    item_w = item_weights(item_raws, item_propagation.scales, v, links, als_precision, config, rng)
    progress("weights of user groups")
    user_w = user_weights(user_raws, user_propagation.scales, u, links, als_precision, config, rng)

    item_ridge = ridge(item_raws, item_propagation.scales, item_w)
    user_ridge = ridge(user_raws, user_propagation.scales, user_w)
    progress("precisions")
    user_precision, item_precision, item_scale, few_share = learn_worth(
        links,
        _side(user_ridge, user_exposure, config.user_precision, als_precision),
        _side(item_ridge, exposure, config.item_precision, START_PRECISION),
        k,
        als_precision,
        rng,
        config.item_prior_scale,
        config.item_few_share,
    )
    log.info(
        "precisions: %.3g of users, %.3g of items, whose prior is scaled by %.3g, and who are half "
        "exposed with %.3g of the mean interactions",
        *(user_precision, item_precision, item_scale, few_share),
    )
    item_ridge = Shrunk(item_ridge, item_scale)
    # Of factors that no feature has touched yet: later ones are drawn to what features predict.
    item_reliability = explained(v, item_ridge.left_out(v))
    user_reliability = explained(u, user_ridge.left_out(u))
    for sweep in range(config.sweeps):
        progress(f"joint sweep {sweep + 1} of {config.sweeps}")
        left_out = item_ridge.left_out(v)
        v = warm_half_step(back, u, left_out, item_precision, exposure=exposure)
        left_out = user_ridge.left_out(u)
        u = warm_half_step(links, v, left_out, user_precision, exposure=user_exposure)

    popularity_scale = config.item_popularity_scale
    if popularity_scale is None and len(item_raws) == 1:  # a constant: nothing is told of items
        popularity_scale = 1.0
    if popularity_scale is None:
        progress("popularity of new items")
        leading = Spectrum.of(v).vectors[:, -config.weight_dim :]
        popularity_scale = learn_popularity_scale(
            links,
            v @ leading,
            item_ridge.left_out(v) @ leading,
            user_ridge.left_out(u) @ leading,
            u.mean(dim=0) @ leading,
            user_precision,
            rng,
        )
    log.info("the popularity that is foretold of items is scaled by %.3g", popularity_scale)

    progress("last half steps")
    user_tables = user_ridge.tables(u)
    leverage = user_ridge.leverage.float()
    u = embed_warm(user_raws, user_tables, leverage, user_precision, user_exposure, links, v)
    user_side = TrainedSide(
        user_propagation,
        user_w,
        user_tables,
        user_precision,
        warm_users,
        leverage,
        u,
        user_reliability,
        torch.ones_like(user_exposure),
        FEW,
    )
    item_tables = item_ridge.tables(v)
    item_side = TrainedSide(
        item_propagation,
        item_w,
        with_popularity(item_tables, v.mean(dim=0), u.mean(dim=0), popularity_scale),
        item_precision,
        warm_items,
        item_ridge.leverage.float(),
        v,
        item_reliability,
        exposure,
        few_share * mean_degree,
        item_scale,
        popularity_scale,
    )
    omega = item_side.exposed(item_counts)
    v = embed_warm(item_raws, item_side.tables, item_side.leverage, item_precision, omega, back, u)
    rehearsal = Rehearsal(
        links,
        user_ridge,
        item_ridge,
        item_raws,
        k,
        als_precision,
        user_precision,
        item_precision,
        exposure,
        few_share,
        popularity_scale,
    )
    return Trained(user_side, item_side, u, v, rehearsal, strengths)


def _links(
    pairs: tuple[np.ndarray, np.ndarray, int, int],
    weights: np.ndarray | None,
    share: float | None,
    k: int,
    precision: float,
    rng: np.random.Generator,
    device: torch.device,
) -> tuple[Adjacency, Strengths | None]:
    """Each user's positives, and how strong they are by their weights, where these may count."""
    plain = Adjacency.from_pairs(*pairs)
    if weights is None or share == 0:
        return plain, None
    strengths = Strengths.of(weights, STRENGTH_SHARE if share is None else share)
    links = Adjacency.from_pairs(*pairs, strengths(weights))
    if share is None and not may_count(links, k, precision, rng, device):
        return plain, None
    return links, strengths


def _side(fitted: Ridge, exposure: torch.Tensor, given: float | None, start: float) -> Side:
    return Side(fitted, exposure, start if given is None else given, given is not None)


def explained(targets: torch.Tensor, left_out: torch.Tensor) -> float:
    """Share of the variance of the targets that leave-one-out predictions explain, 0 to 1."""
    total = ((targets - targets.mean(dim=0)) ** 2).sum()
    missed = ((targets - left_out) ** 2).sum()
    return float((1 - missed / total).clamp(0, 1)) if total > 0 else 0.0


def embed_warm(
    raws: list[Raw],
    tables: list[torch.Tensor],
    leverage: torch.Tensor,
    precision: float,
    exposure: torch.Tensor,
    links: Adjacency,
    other: torch.Tensor,
) -> torch.Tensor:
    """Embeddings of warm nodes from features, edges and the other side alone.

    The leave-one-out prior of a node with leverage h is (phi W - h x) / (1 - h), which contains its
    own embedding x. Put into the half step and solved for x, this is a half step with the plain
    prior phi W and precision rho / (1 - h): no trace of the node itself has to be kept. (Where
    popularity is believed by a share s only, the own embedding has s h along it, and the prior is
    held to a little harder in that direction than rho.)
    """
    precisions = warm_precision(precision, leverage)
    return half_step(links, other, Spectrum.of(other), apply(raws, tables), precisions, exposure)


def warm_precision(precision: float, leverage: torch.Tensor) -> torch.Tensor:
    """Precision rho / (1 - h) of every warm node."""
    return precision / (1 - leverage).clamp(min=1e-4)


def item_weights(
    raws: list[Raw],
    scales: tuple[float, ...],
    items: torch.Tensor,
    links: Adjacency,
    precision: float,
    config: TrainConfig,
    rng: np.random.Generator,
) -> np.ndarray:
    """Weights of the item groups, from random warm items and the users who look at them."""
    items = _leading(items, config.weight_dim)
    rows = _some(len(items), config.weight_nodes, rng)
    links = links.take(_some(len(links), config.weight_contexts, rng))
    at = torch.from_numpy(rows).to(items.device)
    return learn_weights(
        _grams(raws, scales, rows),
        items[at],
        cold_folds(links, rows, items, precision, rng),
        steps=config.item_weight_steps,
        rate=config.weight_rate,
    )


def user_weights(
    raws: list[Raw],
    scales: tuple[float, ...],
    users: torch.Tensor,
    links: Adjacency,
    precision: float,
    config: TrainConfig,
    rng: np.random.Generator,
) -> np.ndarray:
    """Weights of the user groups, from random warm users and the items they choose among."""
    users = _leading(users, config.weight_dim)
    rows = _some(len(users), config.weight_nodes, rng)
    choosers = links.transpose()
    choosers = choosers.take(_some(len(choosers), config.weight_contexts, rng))
    return learn_weights(
        _grams(raws, scales, rows),
        users[torch.from_numpy(rows).to(users.device)],
        cold_folds(choosers, rows, users, precision, rng),
        steps=config.user_weight_steps,
        rate=config.weight_rate,
        among_contexts=True,
    )


def _leading(embeddings: torch.Tensor, dim: int) -> torch.Tensor:
    """Embeddings in the leading directions of theirs, ``[n, dim]`` at most."""
    return embeddings @ Spectrum.of(embeddings).vectors[:, -dim:]


def _some(num_rows: int, most: int, rng: np.random.Generator) -> np.ndarray:
    if num_rows <= most:
        return np.arange(num_rows)
    return np.sort(rng.choice(num_rows, most, replace=False))


def _grams(raws: list[Raw], scales: tuple[float, ...], rows: np.ndarray) -> torch.Tensor:
    some = (gram(select_rows(raw, rows)) / s**2 for raw, s in zip(raws, scales, strict=True))
    return torch.stack(list(some))
