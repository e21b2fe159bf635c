"""The baselines that cold-start models lose to, each with its grid of settings.

A family is fitted once on a training graph and then gives a scorer for every setting of its grid;
which setting speaks for it is chosen on validation data (:func:`coldstart.judging.choose`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse

from coldstart.counting import item_knn, naive_bayes, popularity, text_knn
from coldstart.scorer import HistoryScorer, Scorer
from coldstart.training_data import Settings, TrainingData
from gnn.data import Adjacency
from gnn.groups import Category, FeatureGroup, Gaussians, NeighbourOneHot, OneHot, SparseRows, Text
from gnn.heads import implicit_als
from gnn.prominence import Prominence
from gnn.propagate import FAR_ENTITIES, far_relations
from gnn.words import Pieces, Words

TEXT_SHARES = (0.25, 0.5, 0.75, 1.0)
"""Share of a text kernel, of vectors or of words, beside linked entities, how connected these are,
numbers and categories."""

RIDGE = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Penalties of ridge, for kernels whose diagonal is 1."""

USER_RIDGE = (*RIDGE, 30.0, 100.0, 300.0)
"""The same for users, of whom less is known."""

ALS = ((64, 10.0, 30.0), (128, 10.0, 30.0), (128, 40.0, 100.0), (256, 10.0, 60.0))
"""Factors, weight of a positive, and penalty of implicit ALS."""

EASE = (50.0, 200.0, 500.0, 1000.0)
"""Penalties of EASE."""

_CPU = torch.device("cpu")


class Content(NamedTuple):
    """What a kernel is made of: a share of texts, by vectors or by words, and all else."""

    text: str
    share: float

    def __str__(self) -> str:
        return f"{self.share:g} {self.text}" if self.share else "no text"


def ridge_to_als(data: TrainingData) -> Settings:
    """Ridge from item content to implicit ALS factors; warm items keep their factors."""
    settings: dict[str, Callable[[], Scorer]] = {}
    kernels = _kernels(data, data.graph.schema.item)
    for (k, alpha, penalty), weighted in product(ALS, _weighted(data)):
        factors = _als(data, k, alpha, penalty, weighted)
        for content, ridge in kernels.grid():

            def make(factors=factors, content: Content = content, ridge: float = ridge) -> Scorer:
                users, items = factors()
                return RidgeScorer(kernels, content, ridge, items, by_other=users.T)

            name = f"als k={k} alpha={alpha:g} penalty={penalty:g}{_by_weight(weighted)}, "
            settings[f"{name}text={content} ridge={ridge}"] = make
    return settings


def ridge_to_ease(data: TrainingData) -> Settings:
    """Ridge from item content to EASE-denoised interaction columns; warm items keep theirs."""
    settings: dict[str, Callable[[], Scorer]] = {}
    kernels = _kernels(data, data.graph.schema.item)
    for penalty in EASE:
        columns = _cached(partial(ease_columns, data, penalty))
        for content, ridge in kernels.grid():

            def make(columns=columns, content: Content = content, ridge: float = ridge) -> Scorer:
                return RidgeScorer(kernels, content, ridge, columns())

            settings[f"ease penalty={penalty:g}, text={content} ridge={ridge}"] = make
    return settings


def ridge_to_columns(data: TrainingData) -> Settings:
    """Ridge from item content to plain interaction columns; warm items keep theirs."""
    kernels = _kernels(data, data.graph.schema.item)
    columns = _cached(lambda: data.matrix[:, data.warm_items].T.toarray())

    def make(content: Content, ridge: float) -> Scorer:
        return RidgeScorer(kernels, content, ridge, columns())

    return {f"text={c} ridge={r}": partial(make, c, r) for c, r in kernels.grid()}


def ease(data: TrainingData) -> Settings:
    """EASE for warm items (Steck 2019, Embarrassingly shallow autoencoders, eq. 8)."""

    def make(penalty: float, weighted: bool) -> Scorer:
        known = _matrix(data, weighted)[:, data.warm_items]
        every = np.zeros((len(data.warm_items), len(data.graph.items)), np.float32)
        every[:, data.warm_items] = _ease(known, penalty)
        return HistoryScorer(known, every)

    grid = product(EASE, _weighted(data))
    return {f"penalty={p:g}{_by_weight(w)}": partial(make, p, w) for p, w in grid}


def content_popularity(data: TrainingData) -> Settings:
    """Ridge from item content to log(1 + interactions), the same for every user.

    Warm items have the popularity that they have, cold ones that of what they are like.
    """
    kernels = _kernels(data, data.graph.schema.item)
    counts = np.asarray(data.matrix.sum(axis=0), dtype=np.float32).ravel()[data.warm_items]
    targets, ones = np.log1p(counts)[:, None], np.ones((1, len(data.graph.users)), np.float32)

    def make(content: Content, ridge: float) -> Scorer:
        return RidgeScorer(kernels, content, ridge, targets, by_other=ones)

    grid = kernels.grid(USER_RIDGE)
    return {
        f"text={content} ridge={ridge}": partial(make, content, ridge) for content, ridge in grid
    }


def ridge_on_user_attributes(data: TrainingData) -> Settings:
    """Ridge from user attributes to popularity-centred interaction rows or to ALS factors."""
    kernels = _kernels(data, data.graph.schema.user)
    rows = _cached(lambda: data.matrix[data.warm_users].toarray())
    settings: dict[str, Callable[[], Scorer]] = {}
    als = {setting: _cached(partial(_warm_users_every_item, data, *setting)) for setting in ALS}
    for content, ridge in kernels.grid(USER_RIDGE):

        def to_rows(content: Content = content, ridge: float = ridge) -> Scorer:
            return RidgeScorer(kernels, content, ridge, rows(), of_items=False)

        settings[f"rows, text={content} ridge={ridge}"] = to_rows
        for (k, alpha, penalty), factors in als.items():

            def to_als(factors=factors, content: Content = content, ridge: float = ridge) -> Scorer:
                known, items = factors()
                return RidgeScorer(kernels, content, ridge, known, by_other=items, of_items=False)

            name = f"als k={k} alpha={alpha:g} penalty={penalty:g}, text={content} ridge={ridge}"
            settings[name] = to_als
    return settings


def ridge_x_ridge(data: TrainingData) -> Settings:
    """Ridge from user attributes times ridge from item content, both to ALS factors: all cold."""
    user, item = (_kernels(data, t) for t in (data.graph.schema.user, data.graph.schema.item))
    settings: dict[str, Callable[[], Scorer]] = {}
    for k, alpha, penalty in ALS:
        factors = _als(data, k, alpha, penalty)
        warm = _cached(lambda factors=factors: factors()[0][data.warm_users])
        for theirs, user_ridge in user.grid(USER_RIDGE):
            for content, item_ridge in item.grid():

                def make(
                    factors=factors,
                    warm=warm,
                    theirs: Content = theirs,
                    user_ridge: float = user_ridge,
                    content: Content = content,
                    item_ridge: float = item_ridge,
                ) -> Scorer:
                    users = RidgeScorer(user, theirs, user_ridge, warm(), of_items=False)
                    return PairScorer(users, item, content, item_ridge, factors()[1])

                name = f"als k={k} alpha={alpha:g} penalty={penalty:g}, users text={theirs} "
                name += f"ridge={user_ridge}, items text={content} ridge={item_ridge}"
                settings[name] = make
    return settings


BASELINES: dict[str, Callable[[TrainingData], Settings]] = {
    "popularity": popularity,
    "content popularity": content_popularity,
    "text kNN": text_knn,
    "item kNN": item_knn,
    "ridge to columns": ridge_to_columns,
    "ridge to ALS factors": ridge_to_als,
    "ridge to EASE columns": ridge_to_ease,
    "EASE": ease,
    "naive Bayes": naive_bayes,
    "ridge on user attributes": ridge_on_user_attributes,
    "ridge x ridge": ridge_x_ridge,
}
"""All families by name."""


def ease_columns(data: TrainingData, penalty: float) -> np.ndarray:
    """Denoised interactions (X B)' of the warm items, float32 ``[num_warm, num_users]``."""
    x = data.matrix[:, data.warm_items]
    return np.asarray(x @ _ease(x, penalty)).T


def _weighted(data: TrainingData) -> tuple[bool, ...]:
    """Whether positives count by how strong they are: both are tried where they differ."""
    return (False,) if data.weighted is None else (False, True)


def _matrix(data: TrainingData, weighted: bool) -> sparse.csr_matrix:
    return data.weighted if weighted and data.weighted is not None else data.matrix


def _by_weight(weighted: bool) -> str:
    return " by weight" if weighted else ""


def _ease(x: sparse.csr_matrix, penalty: float) -> np.ndarray:
    """B over the warm items, whose columns x has, float32 ``[num_warm, num_warm]``."""
    gram = np.asarray((x.T @ x).todense(), dtype=np.float64)
    gram[np.diag_indices_from(gram)] += penalty
    inverse = np.linalg.inv(gram)
    b = -inverse / np.diag(inverse)
    np.fill_diagonal(b, 0.0)
    return b.astype(np.float32)


class _Kernels:
    """Ridge in the rows, with one eigendecomposition per content serving all penalties."""

    def __init__(self, data: TrainingData, node_type: str, warm: np.ndarray) -> None:
        self.warm = warm
        self.num_nodes = data.graph.num_nodes(node_type)
        self.texts, others = _content_kernels(data, node_type, warm)
        self.rest = _mean(others) if others else None
        if others and (known := _prominence_kernel(data, node_type, warm)) is not None:
            self.rest = self._better_with(data, node_type, _mean([*others, known]))
        self._decomposed: dict[Content, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self._rotated: dict[tuple[Content, int], tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def _better_with(self, data: TrainingData, node_type: str, both: np.ndarray) -> np.ndarray:
        """The kernel of all but texts, or the one with how connected entities are if it errs less.

        Told by the error of leaving one warm node out, on training interactions alone.
        """
        assert self.rest is not None
        of_items = node_type == data.graph.schema.item
        targets = data.matrix[:, self.warm].T if of_items else data.matrix[self.warm]
        text = next(iter(self.texts.values()), None)
        errors = []
        for rest in (self.rest, both):
            kernel = rest if text is None else (text + rest) / 2
            errors.append(_left_out_error(kernel[self.warm], targets.toarray()))
        return both if errors[1] < errors[0] else self.rest

    def grid(self, penalties: tuple[float, ...] = RIDGE) -> list[tuple[Content, float]]:
        """What the kernel is made of, and ridge penalties."""
        contents = [] if self.rest is None else [Content("", 0.0)]
        for kind in self.texts:
            shares = TEXT_SHARES if self.rest is not None else (1.0,)
            contents += [Content(kind, share) for share in shares]
        return [(content, penalty) for content in contents for penalty in penalties]

    def predict(
        self, content: Content, penalty: float, targets: np.ndarray, nodes: np.ndarray
    ) -> np.ndarray:
        """Predictions of some nodes, float32 ``[len(nodes), num_targets]``.

        Args:
            content: what the kernel is made of.
            penalty: of ridge, with a free intercept.
            targets: of the warm nodes, ``[num_warm, num_targets]``; the same array for every
                setting, since its rotation is kept.
            nodes: rows of these nodes.
        """
        projected, values, vectors = self._decompose(content)
        key = content, id(targets)
        if key not in self._rotated:
            mean = targets.mean(axis=0)
            self._rotated[key] = targets, mean, vectors.T @ (targets - mean)
        _, mean, rotated = self._rotated[key]
        return (projected[nodes] / (values + penalty)) @ rotated + mean

    def _decompose(self, content: Content) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if content not in self._decomposed:
            kernel = 0.0
            if content.share:
                kernel = kernel + content.share * self.texts[content.text]
            if self.rest is not None and content.share < 1:
                kernel = kernel + (1 - content.share) * self.rest
            assert isinstance(kernel, np.ndarray)
            # Centred on the warm nodes, which is ridge with a free intercept.
            columns = kernel[self.warm].mean(axis=0)
            kernel = kernel - columns - kernel.mean(axis=1, keepdims=True) + columns.mean()
            values, vectors = np.linalg.eigh(_symmetric(kernel[self.warm].astype(np.float64)))
            vectors = vectors.astype(np.float32)
            projected = kernel.astype(np.float32) @ vectors
            self._decomposed[content] = projected, values.clip(0).astype(np.float32), vectors
        return self._decomposed[content]


@dataclass(frozen=True, eq=False)
class RidgeScorer:
    """Ridge from content to columns, or to factors that are multiplied with the other side's.

    Args:
        kernels: content of one side.
        content: what the kernel is made of.
        penalty: of ridge.
        targets: of the warm nodes of that side, ``[num_warm, num_targets]``.
        by_other: the other side's factors, ``[num_targets, num_others]``; ``None``: the targets are
            the other side's columns themselves.
        of_items: whether ``kernels`` describe the items, whose warm ones then keep their targets;
            users do not.
    """

    kernels: _Kernels
    content: Content
    penalty: float
    targets: np.ndarray
    by_other: np.ndarray | None = None
    of_items: bool = True

    def score(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """float32 ``[len(users), len(items)]``."""
        nodes, others = (items, users) if self.of_items else (users, items)
        found = self.kernels.predict(self.content, self.penalty, self.targets, nodes)
        if self.of_items:
            place = np.full(self.kernels.num_nodes, -1, np.int64)
            place[self.kernels.warm] = np.arange(len(self.kernels.warm))
            warm = place[nodes] >= 0
            found[warm] = self.targets[place[nodes[warm]]]
        found = found[:, others] if self.by_other is None else found @ self.by_other[:, others]
        return found.T if self.of_items else found


@dataclass(frozen=True, eq=False)
class PairScorer:
    """Factors of users times factors of items, both by ridge from what is known of them.

    Args:
        users: predicts the users' factors.
        kernels: content of the items.
        content: what their kernel is made of.
        penalty: of their ridge.
        targets: factors of the warm items, ``[num_warm, k]``.
    """

    users: RidgeScorer
    kernels: _Kernels
    content: Content
    penalty: float
    targets: np.ndarray

    def score(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """float32 ``[len(users), len(items)]``."""
        u = self.users.score(users, np.arange(self.targets.shape[1]))
        return u @ self.kernels.predict(self.content, self.penalty, self.targets, items).T


def _kernels(data: TrainingData, node_type: str) -> _Kernels:
    """The content of one side, worked out once for all families."""
    warm = data.warm_users if node_type == data.graph.schema.user else data.warm_items
    if ("kernels", node_type) not in data.shared:
        data.shared["kernels", node_type] = _Kernels(data, node_type, warm)
    return data.shared["kernels", node_type]


def _symmetric(matrix: np.ndarray) -> np.ndarray:
    return (matrix + matrix.T) / 2


def _content_kernels(
    data: TrainingData, node_type: str, warm: np.ndarray
) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """Cosine of texts by kind, and of all else, ``[num_nodes, num_warm]`` each.

    Ready-made vectors are kinds like texts, by themselves and together with all others.
    """
    inputs = data.inputs(node_type)
    every = np.arange(len(inputs))
    texts: dict[str, np.ndarray] = {}
    if inputs.text is not None:
        x = Text.fit("text", "text", inputs, warm).raw(inputs, every, _CPU)
        texts["vectors"] = _cosine(x, warm)
    if words := Words.fit("words", inputs, warm):
        texts["words"] = _cosine(words.raw(inputs, every, _CPU), warm)
        if pieces := Pieces.fit("pieces", inputs, warm):
            of_pieces = _cosine(pieces.raw(inputs, every, _CPU), warm)
            texts["words and pieces"] = (texts["words"] + of_pieces) / 2
    for name in inputs.vectors:
        x = Text.fit(name, name, inputs, warm).raw(inputs, every, _CPU)
        texts[f"vectors {name}"] = _cosine(x, warm)
    if inputs.vectors and len(texts) > 1:
        texts["texts and vectors"] = np.mean(list(texts.values()), axis=0)
    groups: list[FeatureGroup] = []
    if inputs.relations:
        groups.append(OneHot.fit("entities", tuple(inputs.relations), inputs, warm))
    if far := tuple(far_relations(inputs, warm)):
        groups.append(OneHot.fit(FAR_ENTITIES, far, inputs, warm, together=True))
    groups += [NeighbourOneHot.fit(r, r, inputs, warm) for r in inputs.same_type]
    groups += [g for name in inputs.numeric if (g := Gaussians.fit(name, inputs, warm))]
    groups += [g for name in inputs.categorical if (g := Category.fit(name, inputs, warm))]
    return texts, [_cosine(group.raw(inputs, every, _CPU), warm) for group in groups]


def _mean(kernels: list[np.ndarray]) -> np.ndarray:
    return sum(kernels[1:], kernels[0]) / len(kernels)


def _prominence_kernel(data: TrainingData, node_type: str, warm: np.ndarray) -> np.ndarray | None:
    """Cosine of how connected entities are, ``[num_nodes, num_warm]``."""
    inputs = data.inputs(node_type)
    found = Prominence.fit("prominence", tuple(inputs.relations), inputs, warm)
    if found is None:
        return None
    x = found.raw(inputs, np.arange(len(inputs)), _CPU)
    return _cosine(x - x[warm].mean(dim=0), warm)


def _left_out_error(kernel: np.ndarray, targets: np.ndarray) -> float:
    """The least squared error of ridge over :data:`RIDGE`, each row being told by the others.

    Source: Allen (1974), The relationship between variable selection and data augmentation and a
    method for prediction (PRESS), with a free intercept.

    Args:
        kernel: of the warm nodes, ``[num_warm, num_warm]``.
        targets: ``[num_warm, num_targets]``.
    """
    mean = kernel.mean(axis=0)
    centred = _symmetric(
        (kernel - mean - kernel.mean(axis=1, keepdims=True) + mean.mean()).astype(float)
    )
    values, vectors = np.linalg.eigh(centred)
    y = targets - targets.mean(axis=0)
    rotated, squares = vectors.T @ y, vectors**2
    errors = []
    for penalty in RIDGE:
        shares = values.clip(0) / (values.clip(0) + penalty)
        leverage = squares @ shares + 1 / len(kernel)
        left = (y - vectors @ (shares[:, None] * rotated)) / (1 - leverage)[:, None]
        errors.append(float((left**2).sum()))
    return min(errors)


def _cosine(raw: torch.Tensor | SparseRows, warm: np.ndarray) -> np.ndarray:
    if isinstance(raw, SparseRows):
        parts = tuple(x.numpy() for x in (raw.values, raw.columns, raw.indptr))
        x = sparse.csr_matrix(parts, shape=(len(raw), raw.width))
        return np.asarray((x @ x[warm].T).todense())
    x = raw.numpy()
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return x @ x[warm].T


def _als(
    data: TrainingData, k: int, alpha: float, penalty: float, weighted: bool = False
) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    def fit() -> tuple[np.ndarray, np.ndarray]:
        warm = _matrix(data, weighted)[data.warm_users][:, data.warm_items].tocoo()
        strengths = warm.data if weighted else None
        links = Adjacency.from_pairs(warm.row, warm.col, *warm.shape, values=strengths)
        rng = np.random.default_rng(data.rng)
        u, v = implicit_als(links, k, penalty, rng, _CPU, alpha=alpha)
        users = np.zeros((len(data.graph.users), k), np.float32)
        users[data.warm_users] = u.numpy()
        return users, v.numpy()

    return data.shared.setdefault(("als", k, alpha, penalty, weighted), _cached(fit))


def _warm_users_every_item(
    data: TrainingData, k: int, alpha: float, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Factors ``[num_warm_users, k]`` and ``[k, num_items]``, zero for cold items."""
    users, items = _als(data, k, alpha, penalty)()
    every = np.zeros((k, len(data.graph.items)), np.float32)
    every[:, data.warm_items] = items.T
    return users[data.warm_users], every


def _cached(make: Callable) -> Callable:
    """The same value at every call, worked out at the first."""
    value: list = []

    def get():
        if not value:
            value.append(make())
        return value[0]

    return get
