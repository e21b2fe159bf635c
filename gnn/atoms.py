"""An embedding as a sum of small parts: one per linked entity, word, value and interaction.

Both embeddings of a pair are such sums, so their product is a sum over pairs of parts, and a score
can be told by what it comes from. Features of unit length make it a question what one of several
links is worth: its part is its Shapley value, the mean over all orders in which the links could
have come of what it adds when it comes. The parts add up, and unlike a proportional share a part
has, almost always, the sign of what really changes when the link is taken away.

Source: Shapley (1953), A value for n-person games; orders are sampled from six links on, as in
Castro, Gomez and Tejada (2009), Polynomial calculation of the Shapley value based on sampling.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import permutations

import numpy as np
import torch

from gnn.data import Adjacency, NodeInputs
from gnn.groups import (
    NEIGHBOUR_SHARE,
    Category,
    Constant,
    FeatureGroup,
    Gaussians,
    NeighbourOneHot,
    NeighbourText,
    OneHot,
    Text,
    TextKernel,
    known,
    leads_to_warm,
    warm_links,
)
from gnn.infer import split_posterior
from gnn.prominence import PROMINENCE, Prominence
from gnn.propagate import Propagation
from gnn.train import TrainedSide
from gnn.words import Pieces, Words, pieces_of_word, words_of

POPULARITY, INTERACTIONS, TEXT, WORDS = "popularity", "interactions", "text", "words"
MOST_ENUMERATED = 5
"""All orders of so many links are gone through; of more, so many are sampled:"""
NUM_ORDERS = 128

_BLOCK_FLOATS = 2**23
_HERE = np.zeros(1, np.int64)


@dataclass(frozen=True)
class Source:
    """What a part of an embedding comes from.

    Args:
        part: what it is told under: a relation, a property, ``text``, ``words``, ``interactions``
            or ``popularity``.
        relation: name of the relation among the node's inputs, where it comes from a link.
        row: at the far end of the link or interaction.
        value: the word or category.
    """

    part: str
    relation: str | None = None
    row: int | None = None
    value: str | None = None


@dataclass(frozen=True, eq=False)
class Atoms:
    """The parts of one embedding, which is their sum.

    Args:
        sources: what each comes from; no two are equal.
        vectors: float32 ``[num_parts, k]``.
    """

    sources: tuple[Source, ...]
    vectors: torch.Tensor

    def having(self, part: str) -> np.ndarray:
        """Positions of those told under a name, int64."""
        return np.array([i for i, s in enumerate(self.sources) if s.part == part], np.int64)


@dataclass
class _Sum:
    """Parts under construction; those of one source are added up."""

    found: dict[Source, torch.Tensor] = field(default_factory=dict)

    def add(self, source: Source, vector: torch.Tensor) -> None:
        self.found[source] = self.found[source] + vector if source in self.found else vector


def embedding_atoms(
    side: TrainedSide,
    inputs: NodeInputs,
    partners: np.ndarray,
    strengths: np.ndarray | None,
    rotated: torch.Tensor,
    other_side: TrainedSide,
    now: torch.Tensor,
) -> Atoms:
    """The embedding of one node, taken apart.

    Args:
        side: of the node.
        inputs: of this node alone.
        partners: rows of its positives on the other side.
        strengths: of these, ``[num_partners]``; ``None``: all are 1.
        rotated: what it was embedded against: for each of them a vector in the eigenbasis of
            F'F, ``[num_partners, k]``.
        other_side: of the partners.
        now: its embedding, ``[k]``. It differs from the sum by what partners that came after
            training have become since; that is given to these.
    """
    prior = prior_atoms(side.propagation, side.tables, inputs)
    if not len(partners):
        return prior
    number = len(partners)
    links = Adjacency(np.array([0, number]), np.arange(number), number, strengths)
    by_feature, by_partner = split_posterior(
        side, inputs.rows, prior.vectors, links, rotated, other_side.spectrum
    )
    late = torch.from_numpy(~np.isin(partners, other_side.warm)).to(now.device)
    drift = now - by_feature.sum(dim=0) - by_partner.sum(dim=0)
    theirs = late if bool(late.any()) else torch.ones_like(late)
    by_partner[theirs] += drift / theirs.sum()
    sources = tuple(Source(INTERACTIONS, row=int(row)) for row in partners)
    return Atoms((*prior.sources, *sources), torch.cat([by_feature, by_partner]))


def prior_atoms(propagation: Propagation, tables: list[torch.Tensor], inputs: NodeInputs) -> Atoms:
    """What the features of one node say, taken apart.

    Args:
        propagation: feature groups.
        tables: raw features to prior, by group.
        inputs: of this node alone.
    """
    total, names = _Sum(), relation_parts(propagation, inputs)
    for group, table in zip(propagation.groups, tables, strict=True):
        for source, vector in _of_group(group, inputs, table):
            if source.relation is not None:
                source = replace(source, part=names[source.relation])
            total.add(source, vector)
    return Atoms(tuple(total.found), torch.stack(list(total.found.values())))


def relation_parts(propagation: Propagation, inputs: NodeInputs) -> dict[str, str]:
    """What the parts of every relation are told under: its name, unless a feature has that name."""
    taken = {POPULARITY, INTERACTIONS, PROMINENCE, TEXT, WORDS, "item bias", "user bias"}
    taken |= {g.name for g in propagation.groups if isinstance(g, Gaussians | Category | Text)}
    out: dict[str, str] = {}
    for relation in (*inputs.relations, *inputs.same_type, *inputs.far):
        name = relation
        while name in taken:
            name += " relation"
        taken.add(name)
        out[relation] = name
    return out


def _of_group(
    group: FeatureGroup, inputs: NodeInputs, table: torch.Tensor
) -> Iterator[tuple[Source, torch.Tensor]]:
    device = table.device
    match group:
        case Constant():
            yield Source(POPULARITY), table[0]
        case Text() | TextKernel():
            text = group.text if isinstance(group, TextKernel) else group
            name = TEXT if text.source == TEXT else text.name
            yield Source(name), group.raw(inputs, _HERE, device)[0] @ table
        case Words():
            row = group.raw(inputs, _HERE, device)
            for at, value in zip(row.columns.tolist(), row.values.tolist(), strict=True):
                yield Source(WORDS, value=group.vocabulary[at]), value * table[at]
        case Pieces():
            yield from _of_pieces(group, inputs, table)
        case Category():
            for at in group.raw(inputs, _HERE, device).columns.tolist():
                yield Source(group.name, value=group.values[at]), table[at]
        case OneHot():
            yield from _of_entities(group, inputs, table)
        case NeighbourOneHot():
            yield from _of_neighbours(group, inputs, table)
        case NeighbourText():
            yield from _of_neighbour_texts(group, inputs, table)
        case Prominence():
            yield from _of_prominence(group, inputs, table)
        case _:
            raw = group.raw(inputs, _HERE, device)
            dense = raw if isinstance(raw, torch.Tensor) else raw.to_dense()
            yield Source(group.name), dense[0] @ table


def _of_pieces(
    group: Pieces, inputs: NodeInputs, table: torch.Tensor
) -> Iterator[tuple[Source, torch.Tensor]]:
    """A piece comes in equal parts from wherever in the text it stands."""
    row = group.raw(inputs, _HERE, table.device)
    columns, values = row.columns.tolist(), row.values.tolist()
    worth = {group.vocabulary[c]: v * table[c] for c, v in zip(columns, values, strict=True)}
    if not worth:
        return
    assert inputs.wording is not None
    words = [(word, pieces_of_word(word)) for word in words_of(inputs.wording(_HERE)[0])]
    times = Counter(piece for _, pieces in words for piece in pieces)
    for word, pieces in words:
        if found := [worth[piece] / times[piece] for piece in pieces if piece in worth]:
            yield Source(WORDS, value=word), torch.stack(found).sum(dim=0)


def _of_entities(
    group: OneHot, inputs: NodeInputs, table: torch.Tensor
) -> Iterator[tuple[Source, torch.Tensor]]:
    sources, columns = [], []
    for relation, rows, some in group.columns_of_one(inputs):
        sources += [Source("", relation, int(row)) for row in rows]
        columns.append(some)
    if sources:
        at, idf = np.concatenate(columns), group.idf[np.concatenate(columns)]
        lengths = _PrefixLengths(idf.astype(np.float64) ** 2)
        worth = shapley(_weighted(table, at, idf), table.new_zeros(table.shape[1]), lengths)
        yield from zip(sources, worth[1:], strict=True)


def _of_neighbours(
    group: NeighbourOneHot, inputs: NodeInputs, table: torch.Tensor
) -> Iterator[tuple[Source, torch.Tensor]]:
    rows = warm_links(inputs.same_type.get(group.relation), _HERE, group.warm).indices
    at, own = known(group.column, rows), known(group.column, inputs.rows)
    rows, at, own = rows[at >= 0], at[at >= 0], own[own >= 0]
    if not len(at) + len(own):
        return
    idf, own_idf = group.idf[at], group.idf[own]
    lengths = _PrefixLengths(idf.astype(np.float64) ** 2, float((own_idf**2).sum()))
    itself = _weighted(table, own, own_idf).sum(dim=0)
    worth = shapley(_weighted(table, at, idf), itself, lengths)
    if len(own):
        yield Source("", group.relation, int(inputs.rows[0])), worth[0]
    for row, vector in zip(rows.tolist(), worth[1:], strict=True):
        yield Source("", group.relation, row), vector


def _of_neighbour_texts(
    group: NeighbourText, inputs: NodeInputs, table: torch.Tensor
) -> Iterator[tuple[Source, torch.Tensor]]:
    device = table.device
    rows = warm_links(inputs.same_type.get(group.relation), _HERE, group.warm).indices
    texts = group.text.of_peers(inputs, rows, device) if len(rows) else table[:0].new_zeros(0)
    own = group.text.raw(inputs, _HERE, device)[0] if group.blend else None
    if not len(rows):
        if own is not None:
            yield Source(TEXT), torch.nn.functional.normalize(own, dim=0) @ table
        return
    lengths = _PrefixMeans(texts.double().cpu().numpy(), None if own is None else own.cpu().numpy())
    itself = table.new_zeros(table.shape[1]) if own is None else own @ table
    worth = shapley(texts @ table, itself, lengths)
    if own is not None:
        yield Source(TEXT), worth[0]
    for row, vector in zip(rows.tolist(), worth[1:], strict=True):
        yield Source("", group.relation, row), vector


def _of_prominence(
    group: Prominence, inputs: NodeInputs, table: torch.Tensor
) -> Iterator[tuple[Source, torch.Tensor]]:
    """A link has what changes when it alone is taken away; what all say together has a part.

    The measures are means and maxima: most of the first links of some order does not go away with
    any one of them, so that a share of it would tell nothing of a link.
    """
    _, place, entity = group.links(inputs.relations)
    values = group.known_by(place, entity, leads_to_warm(inputs.rows, group.warm))
    features = torch.from_numpy(group.without_each(place, values)).to(table)
    worth = (features[0] - features[1:]) @ table
    yield Source(PROMINENCE), features[0] @ table - worth.sum(dim=0)
    for at, row, vector in zip(place.tolist(), entity.tolist(), worth, strict=True):
        # The only link of its relation, if to what no other node has, changes nothing.
        if bool(vector.any()):
            yield Source("", group.relations[at], row), vector


def _weighted(table: torch.Tensor, columns: np.ndarray, idf: np.ndarray) -> torch.Tensor:
    at = torch.from_numpy(columns).to(table.device)
    return table[at] * torch.from_numpy(idf).to(table)[:, None]


class _PrefixLengths:
    """(own + sum of the links) / length, with squared weights of the links and of the node."""

    def __init__(self, squares: np.ndarray, own: float = 0.0) -> None:
        self.squares, self.own = squares, own

    def __len__(self) -> int:
        return len(self.squares)

    def factors(self, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What own and links are multiplied with as links come in this order, ``[m, n + 1]``."""
        square = np.concatenate(
            [np.zeros((len(order), 1)), self.squares[order].cumsum(axis=1)], axis=1
        )
        length = 1 / np.sqrt(np.maximum(square + self.own, 1e-30))
        length[square + self.own <= 0] = 0
        return length, length


class _PrefixMeans:
    """Mean of the links' texts; blended with a node's own text and brought to unit length."""

    def __init__(self, texts: np.ndarray, own: np.ndarray | None) -> None:
        self.gram = texts @ texts.T
        self.with_own = None if own is None else texts @ own
        self.own = 0.0 if own is None else float(own @ own)

    def __len__(self) -> int:
        return len(self.gram)

    def factors(self, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        m, n = order.shape
        count = np.arange(1, n + 1)
        own, links = np.zeros((m, n + 1)), np.zeros((m, n + 1))
        if self.with_own is None:
            links[:, 1:] = 1 / count
            return own, links
        gram = self.gram[order[:, :, None], order[:, None, :]]  # [m, n, n]
        square = gram.cumsum(axis=1).cumsum(axis=2).diagonal(axis1=1, axis2=2)
        share = NEIGHBOUR_SHARE / count
        square = self.own + 2 * share * self.with_own[order].cumsum(axis=1) + share**2 * square
        square = np.concatenate([np.full((m, 1), self.own), square], axis=1)
        own = 1 / np.sqrt(np.maximum(square, 1e-24))
        links[:, 1:] = own[:, 1:] * share
        return own, links


def shapley(
    links: torch.Tensor, own: torch.Tensor, lengths: _PrefixLengths | _PrefixMeans
) -> torch.Tensor:
    """What a node's own part and each of its links are worth, ``[1 + num_links, k]``.

    Args:
        links: ``[num_links, k]``.
        own: ``[k]``; its worth is what is there without any link.
        lengths: what they are multiplied with when some of the links are there.

    Returns:
        Their sum is the value with all links: own and links, each times its last factor.
    """
    n, k = links.shape
    worth = links.new_zeros(n + 1, k)
    worth[0] = own * float(lengths.factors(np.empty((1, 0), np.int64))[0][0, 0])
    order = _orders(n) if n else np.empty((0, 0), np.int64)
    step = max(1, _BLOCK_FLOATS // max(n * k + n * n, 1))
    for start in range(0, len(order), step):
        some = order[start : start + step]
        for_own, for_links = (torch.from_numpy(f).to(links) for f in lengths.factors(some))
        places = torch.from_numpy(some).to(links.device)
        value = for_links[:, 1:, None] * links[places].cumsum(dim=1)
        value += for_own[:, 1:, None] * own
        first = (for_own[:, :1, None] * own).expand(-1, 1, k)
        added = value - torch.cat([first, value[:, :-1]], dim=1)  # [m, n, k]
        worth[1:].index_add_(0, places.flatten(), added.flatten(0, 1) / len(order))
    return worth


def _orders(n: int) -> np.ndarray:
    """All orders of n links, or many of them and their reverses, int64 ``[num_orders, n]``."""
    if n <= MOST_ENUMERATED:
        return np.array(list(permutations(range(n))), np.int64)
    num = max(4, min(NUM_ORDERS, 20_000 // n))
    drawn = np.random.default_rng(n).random((num // 2, n)).argsort(axis=1)
    return np.concatenate([drawn, drawn[:, ::-1]])
