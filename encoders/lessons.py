"""What an encoder is taught, a batch at a time: facts of the graph, then tastes.

A lesson asks for some texts, and says how well their vectors agree with what the graph knows. Both
are contrastive: what belongs together shall be nearer than the other texts of the batch, except
those that belong there, too (false negatives, which are masked). Items held out are never asked
for in a batch; an exam on them says when to stop.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import unquote

import numpy as np
import torch
from scipy import sparse
from torch.nn import functional

from encoders.base import NodeTexts, is_empty
from encoders.texts import clean, properties, shorten
from kg.graph import KnowledgeGraph
from kg.schema import EdgeType

_EXAM_RELATIONS, _EXAM_HEADS = 4, 48
_EXAM_HELD_OUT, _EXAM_HISTORY = 150, 250
_QUERIES = 4096  # at most so many pairs of a user and an item a batch
_LIST = 20
_NAME = 80  # characters of a tail's name
_NO_ROWS = np.zeros(0, np.int64)


class Lesson(Protocol):
    """Something to learn from texts and what the graph says of them."""

    texts: list[str]
    num_examples: int

    def batch(self, rng: np.random.Generator) -> Batch:
        """Texts to encode and what belongs together among them."""
        ...

    def exam(self) -> np.ndarray:
        """Rows of the texts that :meth:`mark` needs the vectors of."""
        ...

    def mark(self, vectors: np.ndarray) -> float:
        """How well held-out items come out, from 0 to 1."""
        ...


@dataclass(frozen=True, eq=False)
class Batch:
    """Texts, and queries that each have one right answer.

    Args:
        rows: of the texts to encode, distinct, int64 ``[num_rows]``.
        queries: float32 ``[num_queries, num_rows]``; a query is this mean of the texts' vectors.
        answers: positions in ``rows``, int64 ``[num_queries]``.
        choices: bool ``[num_queries, num_rows]``, among which texts the answer is to be found.
        offsets: float32 ``[num_rows]``, added to the logits: how often a text is the answer.
    """

    rows: np.ndarray
    queries: np.ndarray
    answers: np.ndarray
    choices: np.ndarray
    offsets: np.ndarray


def contrastive_loss(batch: Batch, vectors: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean cross-entropy of the right answers.

    Args:
        batch: of a lesson.
        vectors: of unit length, ``[num_rows, dim]``.
        temperature: cosines are divided by it.

    Source: van den Oord et al. (2018), Representation learning with contrastive predictive coding,
    eq. (4), with negatives of the batch and false ones left out.
    """
    where = vectors.device
    queries = torch.from_numpy(batch.queries).to(where) @ vectors
    logits = functional.normalize(queries, dim=1) @ vectors.T / temperature
    logits = logits + torch.from_numpy(batch.offsets).to(where)
    logits = logits.masked_fill(~torch.from_numpy(batch.choices).to(where), -torch.inf)
    return functional.cross_entropy(logits, torch.from_numpy(batch.answers).to(where))


class TripleLesson:
    """Which tail fits this head and relation: ``director: John Lasseter`` to the film's own text.

    Every edge that does not touch a user is one; the negatives are other tails of the relation.

    Args:
        graph: its edges, users' left out.
        texts: of nodes, by type; a node without one goes by its key.
        held_out: rows of items whose edges are for the exam.
        size: edges a batch.
    """

    name = "triples"

    def __init__(
        self,
        graph: KnowledgeGraph,
        texts: Mapping[str, NodeTexts],
        held_out: np.ndarray,
        size: int,
    ) -> None:
        rows: dict[str, int] = {}
        ends, asked = [], []
        for edge_type in graph.edge_types:
            if graph.schema.user in (edge_type[0], edge_type[2]):
                continue
            pairs, heads = _phrased(graph, edge_type, texts)
            if len(heads):
                numbered = [[rows.setdefault(text, len(rows)) for text in pair] for pair in pairs]
                ends.append(np.array(numbered, np.int64).T)
                asked.append(np.isin(heads, held_out))
        if not ends:
            raise ValueError("the graph has no edges apart from users' to learn facts from")
        self.size, self.texts = size, list(rows)
        self._edges = [pair[:, ~exam] for pair, exam in zip(ends, asked, strict=True)]
        self._exam = [pair[:, exam] for pair, exam in zip(ends, asked, strict=True)]
        self._known = [
            sparse.csr_matrix((np.ones(pair.shape[1], bool), tuple(pair)), shape=(len(rows),) * 2)
            for pair in ends
        ]
        counts = np.array([pair.shape[1] for pair in self._edges], float)
        self._weights = np.sqrt(counts) / max(np.sqrt(counts).sum(), 1)
        self.num_examples = int(counts.sum())

    def batch(self, rng: np.random.Generator) -> Batch:
        """Edges of one relation: tails are sought for heads, and heads for tails."""
        which = int(rng.choice(len(self._edges), p=self._weights))
        heads, tails = self._edges[which]
        chosen = rng.permutation(len(heads))[: self.size]
        return self._batch(which, heads[chosen], tails[chosen])

    def _batch(self, which: int, heads: np.ndarray, tails: np.ndarray) -> Batch:
        some_heads, some_tails = np.unique(heads), np.unique(tails)
        rows = np.concatenate([some_heads, some_tails])
        h = np.searchsorted(some_heads, heads)
        t = np.searchsorted(some_tails, tails) + len(some_heads)
        known = self._known[which][some_heads][:, some_tails].toarray()
        num_heads = len(some_heads)
        to_tail = np.zeros((len(h), len(rows)), bool)
        to_tail[:, num_heads:] = ~known[h]
        to_head = np.zeros((len(t), len(rows)), bool)
        to_head[:, :num_heads] = ~known.T[t - num_heads]
        answers = np.concatenate([t, h])
        choices = np.concatenate([to_tail, to_head])
        choices[np.arange(len(answers)), answers] = True
        queries = np.eye(len(rows), dtype=np.float32)[np.concatenate([h, t])]
        return Batch(rows, queries, answers, choices, np.zeros(len(rows), np.float32))

    def exam(self) -> np.ndarray:
        """Rows of the exam's texts."""
        batches = self._exam_batches()
        return np.unique(np.concatenate([b.rows for b in batches])) if batches else _NO_ROWS

    def mark(self, vectors: np.ndarray) -> float:
        """Mean reciprocal rank of the right tail for held-out heads, and of the right head."""
        asked, ranks = self.exam(), []
        for batch in self._exam_batches():
            some = vectors[np.searchsorted(asked, batch.rows)]
            scores = np.where(batch.choices, batch.queries @ some @ some.T, -np.inf)
            right = scores[np.arange(len(scores)), batch.answers]
            ranks.append(1 + (scores > right[:, None]).sum(axis=1))
        return float((1 / np.concatenate(ranks)).mean()) if ranks else 0.0

    def _exam_batches(self) -> list[Batch]:
        rng = np.random.default_rng(0)
        largest = np.argsort([-pair.shape[1] for pair in self._exam], kind="stable")[
            :_EXAM_RELATIONS
        ]
        out = []
        for which in largest.tolist():
            heads, tails = self._exam[which]
            chosen = rng.permutation(len(heads))[:_EXAM_HEADS]
            if len(chosen) > 1:
                out.append(self._batch(which, heads[chosen], tails[chosen]))
        return out


class TasteLesson:
    """Items liked together, and what a user's history leads to.

    A batch is some items; of the users who like at least two of them, each liked item in turn is
    sought from the mean of the others, and from one of the others alone. The rest of what the user
    likes is no negative. How many users like an item is an offset, so that the text need not learn
    what popularity says already.

    Args:
        graph: its positives are learnt from.
        texts: of the items.
        held_out: rows of items kept for the exam.
        size: items a batch.
    """

    name = "tastes"

    def __init__(
        self, graph: KnowledgeGraph, texts: NodeTexts, held_out: np.ndarray, size: int
    ) -> None:
        positives = graph.positives()
        shape = len(graph.users), len(graph.items)
        ones = np.ones(positives.shape[1], np.float32)
        self._likes = sparse.csr_matrix((ones, tuple(positives)), shape=shape).tocsc()
        self.texts, self.size = list(texts), size
        warm = np.unique(positives[1])
        warm = warm[[not is_empty(self.texts[row]) for row in warm]]
        self._taught = np.setdiff1d(warm, held_out)
        self._held_out = np.intersect1d(warm, held_out)[:_EXAM_HELD_OUT]
        self._offsets = np.log1p(np.asarray(self._likes.sum(axis=0)).ravel()).astype(np.float32)
        self.num_examples = positives.shape[1]

    def batch(self, rng: np.random.Generator) -> Batch:
        """Some items, and who likes which of them."""
        rows = np.sort(rng.permutation(self._taught)[: self.size])
        likes = self._likes[:, rows].toarray()
        likes = likes[likes.sum(axis=1) >= 2]
        user, answer = np.nonzero(likes)
        chosen = rng.permutation(len(user))[:_QUERIES]
        user, answer = user[chosen], answer[chosen]
        others = likes[user]
        others[np.arange(len(user)), answer] = 0
        keys = rng.random(others.shape) * others
        alone = np.eye(len(rows), dtype=np.float32)[keys.argmax(axis=1)]
        choices = others == 0
        means = others / others.sum(axis=1, keepdims=True)
        return Batch(
            rows,
            np.concatenate([means, alone]),
            np.concatenate([answer, answer]),
            np.concatenate([choices, choices]),
            self._offsets[rows],
        )

    def exam(self) -> np.ndarray:
        """Rows of the held-out items and of some of the others, as histories."""
        rng = np.random.default_rng(0)
        history = rng.permutation(self._taught)[:_EXAM_HISTORY]
        return np.sort(np.concatenate([history, self._held_out]))

    def mark(self, vectors: np.ndarray) -> float:
        """NDCG@20 of held-out items, ranked by cosine to the mean of each user's history."""
        rows = self.exam()
        likes, cold = self._likes[:, rows].toarray(), np.isin(rows, self._held_out)
        likes = likes[(likes[:, cold].sum(axis=1) > 0) & (likes[:, ~cold].sum(axis=1) > 0)]
        if not len(likes):
            return 0.0
        means = likes[:, ~cold] @ (vectors[~cold] - vectors[~cold].mean(axis=0))
        order = np.argsort(-(means @ vectors[cold].T), axis=1, kind="stable")[:, :_LIST]
        gains = 1 / np.log2(np.arange(order.shape[1]) + 2)
        relevant = likes[:, cold]
        found = (np.take_along_axis(relevant, order, axis=1) * gains).sum(axis=1)
        most = np.cumsum(gains)[np.minimum(relevant.sum(axis=1), len(gains)).astype(int) - 1]
        return float((found / most).mean())


def readable(name: str) -> str:
    """A relation or key as words: ``dbo:musicComposer`` and ``dbr:Jim_Lang`` lose their prefix."""
    if "://" in name:
        name = unquote(re.split(r"[/#]", name.rstrip("/#"))[-1])
    name = re.sub(r"^[A-Za-z][\w.-]*:(?=\S)", "", name).replace("_", " ")
    return clean(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name) if " " not in name else name)


def _phrased(
    graph: KnowledgeGraph, edge_type: EdgeType, texts: Mapping[str, NodeTexts]
) -> tuple[list[tuple[str, str]], np.ndarray]:
    """Head's text and tail in words of each edge that has both, and the head's row if an item.

    An item is the head, whichever way its relation points.
    """
    source, relation, target = edge_type
    item, index = graph.schema.item, graph.edges[edge_type].index
    turned = target == item != source
    head_type, tail_type = (target, source) if turned else (source, target)
    heads, tails = index[::-1] if turned else index
    names = _names(graph, tail_type)
    head_texts = list(texts[head_type]) if head_type in texts else _names(graph, head_type)
    kept = [
        not is_empty(head_texts[h]) and not is_empty(names[t])
        for h, t in zip(heads.tolist(), tails.tolist(), strict=True)
    ]
    heads, tails = heads[kept], tails[kept]
    pairs = [
        (head_texts[h], f"{readable(relation).lower()}: {names[t]}")
        for h, t in zip(heads.tolist(), tails.tolist(), strict=True)
    ]
    return pairs, heads if head_type == item else np.full(len(heads), -1)


def _names(graph: KnowledgeGraph, node_type: str) -> list[str]:
    """What a node is called: its first text property, cut short, else its key in words."""
    keys = [readable(str(key)) for key in graph.vocabularies[node_type].keys.to_pylist()]
    first = graph.schema.text.get(node_type, ())[:1]
    if not first:
        return keys
    named = properties(graph, node_type, first)[0]
    return [shorten(name, _NAME) or key for name, key in zip(named, keys, strict=True)]
