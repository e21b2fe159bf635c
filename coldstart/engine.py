"""The engine: a graph goes in, scores for users and items, seen or not, come out."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from coldstart.calibration import (
    COLD_GAIN,
    Values,
    familiarity,
    half_familiar,
    newness,
    simulated_cold_boost,
)
from coldstart.feedback import (
    FeedbackConfig,
    FeedbackEvent,
    FeedbackReport,
    Heard,
    fed_back,
    in_unit_of,
)
from coldstart.index import ExactIndex, exact_scores
from coldstart.ranking import Recommendations
from coldstart.rating import RatingSource, rated
from coldstart.ready_texts import aligned_texts
from coldstart.ready_vectors import Ready, aligned
from coldstart.scorer import CosineBiasScorer
from gnn.data import (
    Adjacency,
    FarRelation,
    NodeInputs,
    far_relations,
    feature_names,
    node_inputs,
)
from gnn.encoding import GraphEncoder, NetworkEncoder, PropagationEncoder, fitted_groups
from gnn.exposure import exposure_by_time
from gnn.infer import embedding_parts, posteriors, priors, rotated_rows
from gnn.network import MODELS, NetworkConfig
from gnn.parallel import own_device
from gnn.ratings import RatingConfig
from gnn.strength import Strengths
from gnn.train import TrainConfig, TrainedSide, train
from kg.delta import GraphDelta
from kg.errors import GraphError
from kg.graph import KnowledgeGraph, require_graph, require_positives
from kg.schema import EdgeType
from kg.vectors import Key, NodeEmbeddings

if TYPE_CHECKING:
    from coldstart.approximate import ApproximateIndex
    from coldstart.explanation import Explanation
    from encoders.base import TextEncoder
    from encoders.embed import CacheChoice

log = logging.getLogger(__name__)

FEW_POSITIVES = 100
"""Training on fewer is warned of."""

MANY_REPEATS = 0.05
"""Where so many interactions without weights repeat a pair, per pair, the log tells of it."""

ENCODERS = {"propagation", *MODELS}
"""What can make features of a graph."""


@dataclass(frozen=True)
class EngineConfig:
    """Settings of an engine; the defaults serve all graphs.

    Args:
        propagation: settings of features, heads and training.
        cold_boost: lift b of an item without history, and of others in proportion to how new they
            are; users of whom little is known get a share of it, see
            :func:`coldstart.calibration.familiarity`. It moves only the mixed ranking of known and
            new items. ``"auto"``: from training; 0: none.
        ratings: settings of the rating head.
        feedback: how events count.
        graph_encoder: what makes features of the graph: ``"propagation"``; a trained network,
            ``"sage"``, ``"gat"``, ``"rgcn"`` or ``"hgt"``; or both, as ``"propagation+sage"``,
            where the leave-one-out loss decides what the network is worth. Networks need
            torch-geometric and train for minutes.
        network: settings of the network; its model is the one named above.
        network_folds: so many networks, each without a share of the interactions, make the
            features of known nodes; 2 to 100.
        approximate_from: from so many items on, :meth:`ColdStartEngine.recommend` looks for them by
            faiss where no candidates are given, with the recall in the log; needs the extra
            ``faiss`` and a CPU. ``None``: search is always exact.
    """

    propagation: TrainConfig = field(default_factory=TrainConfig)
    cold_boost: float | str = "auto"
    ratings: RatingConfig = field(default_factory=RatingConfig)
    feedback: FeedbackConfig = field(default_factory=FeedbackConfig)
    graph_encoder: str = "propagation"
    network: NetworkConfig = field(default_factory=NetworkConfig)
    network_folds: int = 4
    approximate_from: int | None = None

    def __post_init__(self) -> None:
        parts = self.graph_encoder.split("+")
        if len(set(parts)) < len(parts) or len(self._models) > 1 or set(parts) - ENCODERS:
            raise ValueError(
                f"graph_encoder must be one of {sorted(ENCODERS)}, or 'propagation' and a network "
                f"as in 'propagation+sage', got {self.graph_encoder!r}"
            )
        if not 2 <= self.network_folds <= 100:
            raise ValueError(f"network_folds must be from 2 to 100, got {self.network_folds!r}")
        least = self.approximate_from
        if least is not None and (type(least) is not int or least < 1):
            raise ValueError(
                f"approximate_from must be a whole number of at least 1, or None, got {least!r}"
            )
        boost = self.cold_boost
        is_number = isinstance(boost, int | float) and not isinstance(boost, bool)
        if boost != "auto" and not (is_number and math.isfinite(float(boost))):
            raise ValueError(f"cold_boost must be a finite number or 'auto', got {boost!r}")

    @property
    def _models(self) -> list[str]:
        return [part for part in self.graph_encoder.split("+") if part != "propagation"]

    @property
    def graph_encoders(self) -> list[GraphEncoder]:
        """What :attr:`graph_encoder` names."""
        found: list[GraphEncoder] = []
        if "propagation" in self.graph_encoder:
            found.append(PropagationEncoder())
        for model in self._models:
            found.append(NetworkEncoder(replace(self.network, model=model), self.network_folds))
        return found


@dataclass(frozen=True, eq=False)
class ColdStartEngine:
    """A trained engine. It never changes: :meth:`update` returns a new one.

    No learnt parameter belongs to a user or item: the embeddings are cached rows that follow from
    features, edges and the other side (see :meth:`recomputed`).

    Args:
        graph: everything known, interactions included.
        config: settings.
        texts: text vectors by node type, for users and items that have any.
        users: how users are embedded.
        items: how items are embedded.
        user_vectors: float32 ``[num_users, dim]``.
        item_vectors: float32 ``[num_items, dim]``, before the gain of new items.
        newness: of every item, 0 to 1, float32 ``[num_items]``, see
            :func:`coldstart.calibration.newness`.
        familiarity: c_u of every user, 0 to 1, float32 ``[num_users]``, see
            :func:`coldstart.calibration.familiarity`.
        cold_boost: lift of an item without history.
        half_familiar: with so many positives a user is half known, see
            :func:`coldstart.calibration.half_familiar`.
        cold_gain: by how much its embedding is made longer, see
            :data:`coldstart.calibration.COLD_GAIN`.
        feature_edges: edge types that there were at training.
        encoder: turns the texts of new nodes into vectors; ``None``: the default encoder.
        cache: where text vectors are kept on disk.
        graph_encoders: of the user's own, that made features beside those of ``config``.
        vectors: ready-made ones of users and items by type and name, in row order.
        ratings: what :meth:`rate` needs, trained when it is first asked for.
        heard: feedback since the engine was fitted.
        strengths: what positives are taken for by their weights; ``None``: all are alike.
    """

    graph: KnowledgeGraph
    config: EngineConfig
    texts: Mapping[str, NodeEmbeddings]
    users: TrainedSide
    items: TrainedSide
    user_vectors: torch.Tensor
    item_vectors: torch.Tensor
    newness: torch.Tensor
    familiarity: torch.Tensor
    cold_boost: float
    half_familiar: float
    cold_gain: float
    feature_edges: tuple[EdgeType, ...]
    encoder: TextEncoder | None = None
    cache: CacheChoice = "default"
    graph_encoders: tuple[GraphEncoder, ...] = ()
    vectors: Ready = field(default_factory=dict)
    ratings: RatingSource = field(default_factory=RatingSource)
    heard: Heard = field(default_factory=Heard)
    strengths: Strengths | None = None

    @classmethod
    def fit(
        cls,
        graph: KnowledgeGraph,
        config: EngineConfig | None = None,
        *,
        encoder: TextEncoder | None = None,
        texts: Mapping[str, NodeEmbeddings] | None = None,
        graph_encoders: Sequence[GraphEncoder] = (),
        vectors: Ready | None = None,
        cache: CacheChoice = "default",
        rng: int | np.random.Generator = 0,
        device: str = "auto",
        progress: bool = False,
    ) -> ColdStartEngine:
        """Train on the positives of a graph.

        Args:
            graph: with at least one positive interaction.
            config: settings.
            encoder: of node texts; all-MiniLM-L6-v2 by default.
            texts: ready text vectors by node type, instead of encoding.
            graph_encoders: encoders of your own, whose features stand beside those that ``config``
                names; the leave-one-out loss decides what they are worth.
            vectors: further features made elsewhere, of images or sound say, by node type and name:
                ``{"Movie": {"poster": NodeEmbeddings(...)}}``. A node that is not in them has none.
            cache: where text vectors are kept on disk: an ``encoders.VectorCache``, ``"default"``,
                or ``None`` for nowhere.
            rng: seed or generator; the same seed and number of threads give the same engine.
            device: ``"cpu"``, ``"cuda"``, ..., or ``"auto"`` for a GPU where there is one.
            progress: whether to show bars.

        Raises:
            GraphError: the graph has no users, no items, or no positive interaction.
            TypeError: ``graph`` is none.
            ValueError: two classes of feature groups of graph encoders have the same kind.
        """
        require_graph(graph, "ColdStartEngine.fit")
        config = config or EngineConfig()
        config = replace(config, feedback=in_unit_of(config.feedback, graph))
        for role in (graph.schema.user, graph.schema.item):
            if not graph.num_nodes(role):
                raise GraphError(f"the graph has no nodes of type {role!r}; add some first")
        positives = require_positives(graph)
        if positives.shape[1] < FEW_POSITIVES:
            log.warning(
                "there are %d positive interactions; what is learnt from fewer than %d is mostly "
                "chance: see what it is worth with coldstart.evaluate before it is relied upon",
                *(positives.shape[1], FEW_POSITIVES),
            )
        weights = graph.positive_weights()
        repeats = len(graph.interactions) - positives.shape[1]
        if graph.interactions.weight is None and repeats >= MANY_REPEATS * positives.shape[1]:
            log.warning(
                "%d of %d interactions repeat a pair, and without weights a pair counts once; "
                "fit graph.with_interactions_counted() (count = true in a TOML file) to have how "
                "often as weight",
                *(repeats, len(graph.interactions)),
            )
        if texts is None:
            from encoders.embed import embed_nodes

            texts = embed_nodes(graph, encoder, _text_types(graph), cache=cache, progress=progress)
        texts, ready = aligned_texts(graph, texts), aligned(graph, vectors or {})
        user_inputs, item_inputs = inputs_of_graph(graph, texts, graph.edge_types, vectors=ready)
        where = _device(device)
        rng = np.random.default_rng(rng)
        with _Steps(progress) as steps:
            groups = fitted_groups(
                (*config.graph_encoders, *graph_encoders),
                *(graph, user_inputs, item_inputs, positives),
                rng=rng,
                device=where,
                progress=steps,
            )
            trained = train(
                user_inputs,
                item_inputs,
                positives,
                config.propagation,
                weights=weights,
                item_exposure=item_exposure(graph),
                groups=groups,
                rng=rng,
                device=where,
                progress=steps,
            )
        user_vectors = priors(trained.users, user_inputs, user_inputs.rows, where)
        item_vectors = priors(trained.items, item_inputs, item_inputs.rows, where)
        boost = config.cold_boost
        if isinstance(boost, str):
            boost = simulated_cold_boost(trained, item_inputs, rng)
        user_vectors[torch.from_numpy(trained.users.warm).to(where)] = trained.user_embeddings
        item_vectors[torch.from_numpy(trained.items.warm).to(where)] = trained.item_embeddings
        counts = np.bincount(positives[0], minlength=len(graph.users))
        half = half_familiar(trained.rehearsal.links)
        return cls(
            graph,
            config,
            texts,
            trained.users,
            trained.items,
            user_vectors,
            item_vectors,
            newness(graph, trained.items, item_inputs.rows),
            familiarity(counts, half).to(where),
            float(boost),
            half,
            COLD_GAIN,
            graph.edge_types,
            encoder,
            cache,
            tuple(graph_encoders),
            ready,
            strengths=trained.strengths,
        )

    def __repr__(self) -> str:
        graph = self.graph
        return (
            f"ColdStartEngine(users: {len(graph.users):,}, items: {len(graph.items):,}, "
            f"interactions: {len(graph.interactions):,}, dim: {self.dim}, "
            f"graph_encoder: {self.config.graph_encoder!r})"
        )

    # --- what comes out -------------------------------------------------------------------------

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.item_vectors.shape[1]

    @property
    def scorer(self) -> CosineBiasScorer:
        """The scorer over rows, as baselines have it."""
        return CosineBiasScorer(
            self.user_vectors.cpu().numpy(),
            (self.item_vectors * self.item_gain[:, None]).cpu().numpy(),
            self.item_bias.cpu().numpy(),
            self.familiarity.cpu().numpy(),
        )

    @property
    def item_bias(self) -> torch.Tensor:
        """b_i, the lift of every item, float32 ``[num_items]``; b_u is 0.

        A user gets the share c_u of it that :attr:`familiarity` says.
        """
        return self.cold_boost * self.newness

    @property
    def item_gain(self) -> torch.Tensor:
        """What the vector of every item is multiplied with before it is scored, ``[num_items]``."""
        return self.gain_at(self.newness)

    def gain_at(self, newness: Values) -> Values:
        """What the vectors of items of such newness are multiplied with before they are scored."""
        return 1 + (self.cold_gain - 1) * newness

    def gain_of(self, node_type: str, rows: np.ndarray) -> torch.Tensor:
        """The gain of some users or items, float32 ``[len(rows)]``; that of users is 1."""
        at = torch.from_numpy(rows).to(self.newness.device)
        if node_type == self.graph.schema.user:
            return self.newness.new_ones(len(rows))
        return self.gain_at(self.newness[at])

    def score(self, users: Sequence[Key], items: Sequence[Key]) -> np.ndarray:
        """r_ui of every pair, float32 ``[len(users), len(items)]``; higher is better.

        The same numbers as in :meth:`recommend` and :meth:`audience`, whatever the company.

        Raises:
            UnknownNodeError: a user or item is not in the graph.
        """
        rows = self.graph.users.rows(users), self.graph.items.rows(items)
        u, i = (torch.from_numpy(r).to(self.item_vectors.device) for r in rows)
        queries = torch.cat([self.user_vectors[u], self.familiarity[u, None]], dim=1)
        return exact_scores(queries, self._item_index.rows[i]).cpu().numpy()

    def rate(self, users: Sequence[Key], items: Sequence[Key]) -> np.ndarray:
        """The rating expected of every pair, float32 ``[len(users), len(items)]``.

        In the scale of the interactions' weights, within the lowest and the highest of them:
        mean + b_u + b_i + a_u a_i cos(u, i), where bias and vector of a node follow from its
        features and its ratings, also for one that came by :meth:`update`. The first call trains
        the head (seconds for 100,000 ratings) on what the engine was fitted on, whatever came by
        :meth:`update` since; later calls and updates train nothing.

        Raises:
            UnknownNodeError: a user or item is not in the graph.
            GraphError: the interactions have no weights.
        """
        return rated(self, self.graph.users.rows(users), self.graph.items.rows(items))

    def recommend(
        self,
        users: Sequence[Key],
        k: int = 10,
        *,
        candidates: Sequence[Key] | None = None,
        exclude_seen: bool = True,
        where: Any = None,
        evidence: bool = True,
        diversity: float = 0.0,
    ) -> Recommendations:
        """The ``k`` best items of every user, best first; equal scores keep item order.

        Args:
            users: keys of users.
            k: list length, at least 1; a list is shorter where there are fewer items to choose.
            candidates: keys of the items to choose from; all by default.
            exclude_seen: whether to leave out what a user has interacted with, positively or not.
            where: only items with these properties: an Arrow expression
                (``pc.field("year") > 1990``) or a mapping of property to value or values.
            evidence: whether to say what stands behind each recommendation.
            diversity: from 0, by score alone, to 1: how much items like those above count less,
                see :func:`coldstart.diversity.diversified`. A column ``price`` then tells by how
                much the mean score of a list is lower than without.

        Raises:
            UnknownNodeError: a user or candidate is not in the graph.
            ValueError: ``k`` is below 1, ``diversity`` is not between 0 and 1, or ``where`` is of
                another kind or names a property that items do not have.
        """
        rows = self.graph.users.rows(users)
        pool = self._pool(self.graph.schema.item, candidates, where)
        excluded = self._seen(rows, axis=0) if exclude_seen else None
        if not 0 <= diversity <= 1:
            raise ValueError(f"diversity must be between 0 and 1, got {diversity!r}")
        if not diversity:
            found = self._best_items(rows, k, pool, excluded)
            return self._recommendations(rows, *found, user_axis=True, evidence=evidence)
        from coldstart.diversity import diversified, pool_size

        wide = pool_size(_list_length(k))
        best = self._best_items(rows, wide, pool, excluded)
        *found, price = diversified(*best, self.item_vectors, k, diversity)
        out = self._recommendations(rows, *found, user_axis=True, evidence=evidence)
        prices = np.repeat(price, (found[0] >= 0).sum(axis=1))
        return replace(out, evidence={"price": prices, **out.evidence})

    def audience(
        self,
        items: Sequence[Key],
        k: int = 10,
        *,
        candidates: Sequence[Key] | None = None,
        exclude_seen: bool = True,
        where: Any = None,
        evidence: bool = True,
    ) -> Recommendations:
        """The ``k`` users with the highest score for every item, best first.

        Arguments and errors are those of :meth:`recommend` with users and items exchanged.
        """
        rows = self.graph.items.rows(items)
        pool = self._pool(self.graph.schema.user, candidates, where)
        excluded = self._seen(rows, axis=1) if exclude_seen else None
        queries = self._item_index.rows[torch.from_numpy(rows).to(self.item_vectors.device)]
        found = self._user_index.search(
            queries[:, :-1],
            min(_list_length(k), len(self.graph.users)),
            candidates=pool,
            excluded=excluded,
            weights=queries[:, -1],
        )
        return self._recommendations(rows, *found, user_axis=False, evidence=evidence)

    def explain(
        self, user: Key, item: Key, *, paths: int = 8, removal: bool = False
    ) -> Explanation:
        """Why the score of a pair is what it is: parts that add up, paths, nearest items.

        Args:
            user: key of a user, known or new.
            item: key of an item, known or new.
            paths: how many paths through the graph to name at most.
            removal: whether to take away the edges with the largest parts, one at a time, recompute
                and tell what the score really loses.

        Raises:
            UnknownNodeError: the user or item is not in the graph.
        """
        from coldstart.explanation import explained

        return explained(self, user, item, paths, removal)

    def embed(self, node_type: str, keys: Sequence[Key]) -> NodeEmbeddings:
        """Embeddings of some users or items.

        Raises:
            UnknownNodeError: a key is not in the graph.
            ValueError: the type is neither that of users nor that of items.
        """
        _, vectors = self._side(node_type)
        nodes = self.graph.vocabularies[node_type]
        rows = nodes.rows(keys)
        some = vectors[torch.from_numpy(rows).to(vectors.device)]
        some = some * self.gain_of(node_type, rows)[:, None]
        return NodeEmbeddings(nodes.take(rows), some.cpu().numpy())

    def embeddings(self, node_type: str) -> NodeEmbeddings:
        """Embeddings of all users or all items, known or new.

        Raises:
            ValueError: the type is neither that of users nor that of items.
        """
        _, vectors = self._side(node_type)
        is_item = node_type == self.graph.schema.item
        copied = vectors * self.item_gain[:, None] if is_item else vectors.clone()
        return NodeEmbeddings(self.graph.vocabularies[node_type], copied.cpu().numpy())

    def recomputed(self, node_type: str, keys: Sequence[Key]) -> NodeEmbeddings:
        """Embeddings from features, edges and the other side, without looking at the cached rows.

        Equal to :meth:`embed` to rounding for every node that was there at training and was not
        touched since: users exactly against the items' training reference, items against the
        users' (see DESIGN 5 and the README).
        """
        rows = self.graph.vocabularies[node_type].rows(keys)
        vectors = self._embedded(node_type, rows, self.user_vectors, self.item_vectors)
        vectors = vectors * self.gain_of(node_type, rows)[:, None]
        nodes = self.graph.vocabularies[node_type].take(rows)
        return NodeEmbeddings(nodes, vectors.cpu().numpy())

    # --- what is new ----------------------------------------------------------------------------

    def update(
        self,
        delta: GraphDelta,
        *,
        texts: Mapping[str, NodeEmbeddings] | None = None,
        vectors: Ready | None = None,
        progress: bool = False,
    ) -> ColdStartEngine:
        """The engine after a change of the graph, without training.

        What was learnt stays as trained. First the priors of all new and touched nodes, then one
        simultaneous half step of both sides against the vectors from before the update. A node
        that the change does not touch keeps its embedding bit for bit. One change and its two
        halves give the same, but for partners of a node that came after training and gets
        interactions in both halves: those of the second half see what it has become by the first.

        Args:
            delta: new and changed nodes, edges, interactions, and what is gone.
            texts: ready text vectors of the nodes in ``delta``, instead of encoding. One of a node
                that is there and not in ``delta`` takes the place of what it had.
            vectors: of nodes in ``delta``, as for :meth:`fit`; one without keeps what it had.
            progress: whether to show a bar while texts are encoded.

        Raises:
            GraphError: the change does not fit the graph, or names a type that the graph does not
                have, or a property and ``delta.new_properties`` is false, or gives seconds where
                the graph's times are dates; nothing is changed then.
            AlignmentError: vectors are of a type or name that the engine was fitted without, of
                another length, or ``vectors`` of a node that is not in ``delta``.
            UnknownNodeError: a text vector is of a node that is not in the graph.
        """
        from coldstart.known_names import check_names, check_times
        from coldstart.updating import tell_unlearnt, updated

        if not isinstance(delta, GraphDelta):
            raise TypeError(
                f"expected a kg.GraphDelta, got {type(delta).__name__}; "
                "GraphDelta(nodes=..., edges=...) makes one of tables"
            )
        check_names(self.graph, delta)
        check_times(self.graph, delta)
        after = updated(self, delta, texts, vectors or {}, progress)
        tell_unlearnt(self, delta)
        return after

    def feedback(
        self, events: Iterable[FeedbackEvent], *, now: float | None = None
    ) -> FeedbackReport:
        """What people did with items, counted at once for them and for the items' embeddings.

        See :mod:`coldstart.feedback` for what counts how. Like :meth:`update` it trains nothing
        and makes a new engine, which is in the report. The same event sent twice counts once.

        Args:
            events: in any order; none, to let time pass and clicks fade.
            now: the time it is; that of the last event by default.

        Raises:
            UnknownNodeError: a user or item is not in the graph; add it by :meth:`update` first.
            GraphError: a rating comes, and the interactions have no weights.
        """
        return fed_back(self, events, now)

    def embed_new(
        self,
        node_type: str,
        *,
        links: Mapping[EdgeType, Sequence[Key] | Mapping[Key, float]] | None = None,
        properties: Mapping[str, Any] | None = None,
        text: np.ndarray | None = None,
        vectors: Mapping[str, np.ndarray] | None = None,
        on_unknown: Literal["error", "skip"] = "error",
    ) -> np.ndarray:
        """The embedding a new node would get, without adding it: for a visitor or a draft.

        Args:
            node_type: users or items.
            links: keys at the far end, by edge type; the interaction type for its positives, or
                their weights by key, where interactions have weights. Without, a positive is taken
                for one of middling weight.
            properties: texts, numbers, dates and categories by name of the property; texts count by
                their words here, and as a whole by their vector, ``text``.
            text: text vector, ``[dim of the encoder]``; none is a node without text.
            vectors: ready-made ones by name, of the length they had at training.
            on_unknown: what to do about keys in ``links`` that the graph does not have: raise, or
                leave them out.

        Returns:
            float32 ``[dim]``, equal to what :meth:`update` with the same node would give.

        Raises:
            ValueError: the type is neither that of users nor that of items, a link does not touch
                it, a property is none that the schema names, or weights come for edges without.
            GraphError: the graph has no edges of the type of a link, or a weight is not finite.
            UnknownNodeError: a key at the far end is unknown, and ``on_unknown`` is ``"error"``.
        """
        from coldstart.updating import new_node

        return new_node(
            self, node_type, links or {}, properties or {}, text, vectors or {}, on_unknown
        )

    # --- disk -----------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write the engine as a folder of Parquet, safetensors and JSON, all of it or nothing."""
        from coldstart.saving import save_engine

        save_engine(self, Path(folder))

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        encoder: TextEncoder | None = None,
        graph_encoders: Sequence[GraphEncoder] = (),
        device: str = "auto",
    ) -> ColdStartEngine:
        """The engine in a folder that :meth:`save` wrote.

        Args:
            folder: where it is.
            encoder: needed where the engine was fitted with an encoder of the user's own.
            graph_encoders: needed where the engine was fitted with graph encoders of the user's
                own.
            device: as for :meth:`fit`.

        Raises:
            SavedFileError: the folder is incomplete, changed, or of a newer version.
        """
        from coldstart.saving import load_engine

        return load_engine(Path(folder), encoder, graph_encoders, _device(device))

    # --- inside ---------------------------------------------------------------------------------

    @cached_property
    def _item_index(self) -> ExactIndex:
        return ExactIndex.of(self.item_vectors, self.item_bias, self.item_gain)

    @cached_property
    def _item_search(self) -> ExactIndex | ApproximateIndex:
        self.__dict__.pop("_stale_search", None)  # see coldstart.updating; it is of no more use
        return self.search_made_anew()

    def search_made_anew(self) -> ExactIndex | ApproximateIndex:
        """What looks for items, made of those there are now; seconds in a very large catalogue."""
        exact = self._item_index
        if not self.may_approximate:
            return exact
        from coldstart.approximate import ApproximateIndex

        return ApproximateIndex.of(exact, self.user_vectors)

    @property
    def may_approximate(self) -> bool:
        """Whether there are so many items, on a CPU, that clusters may serve."""
        least = self.config.approximate_from
        on_cpu = self.item_vectors.device.type == "cpu"
        return least is not None and len(self.item_vectors) >= least and on_cpu

    @cached_property
    def _user_index(self) -> ExactIndex:
        return ExactIndex.of(self.user_vectors, self.familiarity)

    def _best_items(
        self, rows: np.ndarray, k: int, pool: np.ndarray | None, excluded: list[np.ndarray] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows and scores of the best items of some users."""
        at = torch.from_numpy(rows).to(self.user_vectors.device)
        return self._item_search.search(
            self.user_vectors[at],
            min(_list_length(k), len(self.graph.items)),
            candidates=pool,
            excluded=excluded,
            weights=self.familiarity[at],
        )

    @cached_property
    def _unwanted(self) -> np.ndarray:
        """Rows of users and of the items they do not want, int64 ``[2, num_pairs]``."""
        pairs = [(user, item) for user, items in self.heard.unwanted.items() for item in items]
        users, items = zip(*pairs, strict=True) if pairs else ((), ())
        return np.stack([self.graph.users.rows(users), self.graph.items.rows(items)])

    def _side(self, node_type: str) -> tuple[TrainedSide, torch.Tensor]:
        schema = self.graph.schema
        if node_type == schema.user:
            return self.users, self.user_vectors
        if node_type == schema.item:
            return self.items, self.item_vectors
        raise ValueError(
            f"embeddings are made for {schema.user!r} and {schema.item!r}, not {node_type!r}"
        )

    def _links(self, node_type: str, rows: np.ndarray) -> Adjacency:
        """Positives of some nodes, as rows of the other side."""
        graph = self.graph
        own = 0 if node_type == graph.schema.user else 1
        edges = graph.interactions
        at, here = edges.touching(own, rows)
        if graph.schema.positive_weight is not None and edges.weight is not None:
            positive = edges.weight[at] >= graph.schema.positive_weight
            at, here = at[positive], here[positive]
        there = edges.index[1 - own][at]
        other = graph.num_nodes(graph.schema.item if own == 0 else graph.schema.user)
        values = None
        if self.strengths is not None and edges.weight is not None:
            values = self.strengths(edges.weight[at])
        return Adjacency.from_pairs(here, there, len(rows), other, values)

    @cached_property
    def user_history(self) -> Callable[[np.ndarray], np.ndarray] | None:
        """Mean item text of any users' positives; ``None`` where items have no texts."""
        text = self.texts.get(self.graph.schema.item)
        return None if text is None else _history_of(self.graph, text.matrix)

    @cached_property
    def relation_names(self) -> Mapping[str, Mapping[EdgeType, str]]:
        """By node type what the edge types of training are called in its features."""
        schema = self.graph.schema
        return {
            t: feature_names(self.feature_edges, self.graph, t) for t in (schema.user, schema.item)
        }

    @cached_property
    def far_relations(self) -> Mapping[str, Mapping[str, FarRelation]]:
        """By node type what the entities of its relations are linked to, by name of the way."""
        names = self.relation_names.items()
        return {t: far_relations(self.feature_edges, self.graph, t, own) for t, own in names}

    def _inputs_of(self, node_type: str, rows: np.ndarray) -> NodeInputs:
        some = self.graph, self.texts, self.feature_edges, node_type, rows
        return inputs_of_side(*some, vectors=self.vectors)

    def _embedded(
        self,
        node_type: str,
        rows: np.ndarray,
        user_vectors: torch.Tensor,
        item_vectors: torch.Tensor,
        prior: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Embeddings of these nodes against the other side's vectors as given."""
        side, _ = self._side(node_type)
        if prior is None:
            inputs = self._inputs_of(node_type, rows)
            prior = priors(side, inputs, np.arange(len(rows)), self.item_vectors.device)
        links = self._links(node_type, rows)
        if not len(links.indices):
            return prior
        links, rotated = self._seen_through(node_type, links, user_vectors, item_vectors)
        is_user = node_type == self.graph.schema.user
        spectrum = (self.items if is_user else self.users).spectrum
        return posteriors(side, rows, prior, links, rotated, spectrum)

    def _seen_through(
        self,
        node_type: str,
        links: Adjacency,
        user_vectors: torch.Tensor,
        item_vectors: torch.Tensor,
    ) -> tuple[Adjacency, torch.Tensor]:
        """Links renumbered to the few nodes of the other side that they need, and these rotated."""
        is_user = node_type == self.graph.schema.user
        other_side, vectors = (self.items, item_vectors) if is_user else (self.users, user_vectors)
        needed, places = np.unique(links.indices, return_inverse=True)
        links = replace(links, indices=places, num_targets=len(needed))
        return links, rotated_rows(other_side, vectors, needed)

    def _pool(
        self, node_type: str, candidates: Sequence[Key] | None, where: Any
    ) -> np.ndarray | None:
        if candidates is None and where is None:
            return None
        nodes = self.graph.vocabularies[node_type]
        pool = np.arange(len(nodes)) if candidates is None else np.unique(nodes.rows(candidates))
        if where is not None:
            pool = np.intersect1d(pool, matching_rows(self.graph, node_type, where))
        return pool

    def _seen(self, rows: np.ndarray, axis: int) -> list[np.ndarray]:
        edges = self.graph.interactions
        distinct, back = np.unique(rows, return_inverse=True)
        at, here = edges.touching(axis, distinct)
        there = edges.index[1 - axis][at]
        order = np.lexsort((there, here))
        here, there = here[order], there[order]
        bounds = np.searchsorted(here, np.arange(len(distinct) + 1))
        every = [np.unique(there[s:e]) for s, e in pairwise(bounds)]
        seen = [every[place] for place in back.tolist()]
        if not self.heard.unwanted:
            return seen
        unwanted = self._unwanted
        here, there = (unwanted[axis], unwanted[1 - axis])
        return [np.union1d(some, there[here == row]) for some, row in zip(seen, rows, strict=True)]

    def _recommendations(
        self,
        rows: np.ndarray,
        others: np.ndarray,
        scores: np.ndarray,
        *,
        user_axis: bool,
        evidence: bool,
    ) -> Recommendations:
        found = others >= 0
        queries = np.repeat(rows, found.sum(axis=1))
        ranks = np.broadcast_to(np.arange(1, others.shape[1] + 1), others.shape)[found]
        pairs = (queries, others[found]) if user_axis else (others[found], queries)
        behind = {}
        if evidence:
            from coldstart.evidence import evidence_of

            behind = evidence_of(self, *pairs)
        return Recommendations(
            self.graph.users, self.graph.items, *pairs, ranks, scores[found], behind
        )

    def item_parts(self, rows: np.ndarray) -> torch.Tensor:
        """Item embeddings as sums of a part per feature group and, last, one from interactions.

        All parts are multiplied with the item's gain.

        Returns:
            float32 ``[len(rows), num_groups + 1, dim]``.
        """
        item = self.graph.schema.item
        inputs = self._inputs_of(item, rows)
        raws = self.items.propagation.raw(inputs, np.arange(len(rows)), self.item_vectors.device)
        links, rotated = self._seen_through(
            item, self._links(item, rows), self.user_vectors, self.item_vectors
        )
        parts = embedding_parts(self.items, rows, raws, links, rotated, self.users.spectrum)
        # A user who came with the same update, or was touched since, has another vector by now than
        # the one that the item was embedded against; what that makes is due to interactions too.
        busy = torch.from_numpy(np.flatnonzero(links.degrees)).to(parts.device)
        now = self.item_vectors[torch.from_numpy(rows).to(parts.device)]
        parts[busy, -1] += (now - parts.sum(dim=1))[busy]
        return parts * self.gain_of(item, rows)[:, None, None]


def matching_rows(graph: KnowledgeGraph, node_type: str, where: Any) -> np.ndarray:
    """Rows of the nodes with given properties, ascending.

    Args:
        graph: the graph.
        node_type: of the nodes.
        where: an Arrow compute expression over the properties, or a mapping of property to the
            value or list of values it may have.

    Raises:
        ValueError: ``where`` is neither, or a property does not exist.
    """
    if not isinstance(where, Mapping | pc.Expression):
        raise ValueError(
            f"where={str(where)[:80]!r} does not fit {node_type}: expected an Arrow expression, "
            'such as pyarrow.compute.field("pages") > 300, or a mapping of property to its value '
            f'or values, such as {{"language": ["en", "fr"]}}, got {type(where).__name__}'
        )
    table = graph.node_table(node_type)
    if isinstance(where, Mapping):
        for name in where:
            _require_property(table, node_type, name)
        expression = None
        for name, value in where.items():
            values = list(value) if isinstance(value, list | tuple | set) else [value]
            one = pc.field(name).isin(values)
            expression = one if expression is None else expression & one
        if expression is None:
            return np.arange(table.num_rows)
    else:
        expression = where
    numbered = table.append_column("__row__", pa.array(np.arange(table.num_rows)))
    try:
        return numbered.filter(expression)["__row__"].to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, TypeError) as error:
        if named := re.match(r"No match for FieldRef\.Name\((.+?)\) in ", str(error)):
            _require_property(table, node_type, named[1])
        raise ValueError(
            f"where={where!r} does not fit {node_type}, whose properties are "
            f"{table.column_names}: {error}"
        ) from error


def _require_property(table: pa.Table, node_type: str, name: Any) -> None:
    if name not in table.column_names:
        raise ValueError(
            f"where= names {name!r}, and a {node_type} has no such property, only "
            f"{', '.join(table.column_names)}"
        )


def item_exposure(graph: KnowledgeGraph) -> np.ndarray | None:
    """Exposure of all items at training by the times of interactions; ``None`` without times."""
    edges = graph.interactions
    if edges.time is None:
        return None
    return exposure_by_time(edges.index[1], edges.time, len(graph.items))


def inputs_of_graph(
    graph: KnowledgeGraph,
    texts: Mapping[str, NodeEmbeddings],
    edge_types: Sequence[EdgeType],
    *,
    vectors: Ready | None = None,
) -> tuple[NodeInputs, NodeInputs]:
    """Inputs of all users and of all items, from the edge types of training."""
    user, item = graph.schema.user, graph.schema.item
    return (
        inputs_of_side(graph, texts, edge_types, user, vectors=vectors),
        inputs_of_side(graph, texts, edge_types, item, vectors=vectors),
    )


def inputs_of_side(
    graph: KnowledgeGraph,
    texts: Mapping[str, NodeEmbeddings],
    edge_types: Sequence[EdgeType],
    node_type: str,
    rows: np.ndarray | None = None,
    *,
    vectors: Ready | None = None,
) -> NodeInputs:
    """Inputs of all or some users, or items, from the edge types of training."""
    user, item, history = graph.schema.user, graph.schema.item, None
    if node_type == user and item in texts and any(e[0] == e[2] == user for e in edge_types):
        history = _history_of(graph, texts[item].matrix)
    ready = {name: one.matrix for name, one in (vectors or {}).get(node_type, {}).items()}
    return node_inputs(
        graph,
        node_type,
        texts[node_type].matrix if node_type in texts else None,
        rows=rows,
        edge_types=edge_types,
        vectors=ready,
        peer_history=history,
    )


def _history_of(graph: KnowledgeGraph, item_text: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Mean text of the positives of any users; a zero row is a user without any."""

    @cache
    def positives() -> Adjacency:
        pairs = graph.positives()
        return Adjacency.from_pairs(pairs[0], pairs[1], len(graph.users), len(graph.items))

    def history(users: np.ndarray) -> np.ndarray:
        links = positives().take(users)
        out = np.zeros((len(users), item_text.shape[1]), np.float32)
        np.add.at(out, links.sources, item_text[links.indices])
        return out / np.maximum(links.degrees, 1)[:, None].astype(np.float32)

    return history


def _text_types(graph: KnowledgeGraph) -> list[str]:
    return [t for t in (graph.schema.user, graph.schema.item) if graph.schema.text.get(t)]


def _list_length(k: int) -> int:
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k must be a whole number of at least 1, got {k!r}")
    return int(k)


def _device(name: str) -> torch.device:
    if name == "auto":
        return own_device()
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used here ({error}); use 'auto'") from error


class _Steps:
    """A bar over the steps of training, or a line in the log."""

    def __init__(self, show: bool) -> None:
        from tqdm.auto import tqdm

        self.bar = tqdm(desc="training", unit="step", disable=not show)

    def __enter__(self) -> _Steps:
        return self

    def __call__(self, step: str) -> None:
        log.debug("training: %s", step)
        self.bar.set_postfix_str(step)
        self.bar.update()

    def __exit__(self, *error: object) -> None:
        self.bar.close()
