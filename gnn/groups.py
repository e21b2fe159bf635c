"""Feature groups: each turns the inputs of any node, seen or not, into one block of raw features.

Every statistic in a group (mean, document frequency, quantile) comes from the warm nodes, and links
within one type count only where they lead to a warm node. So a node has the same features whether
it was there at training or came later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
import torch

from gnn.data import Adjacency, NodeInputs

NEIGHBOUR_SHARE = 0.7
"""Weight of the neighbours' mean text beside a node's own."""

NUM_FREQUENCIES = 256
"""Random Fourier frequencies of the text kernel; each makes a cosine and a sine."""

KERNEL_VARIANCE = 2.0
"""Variance of those frequencies."""

QUANTILES = np.linspace(0.02, 0.98, 10)
"""Centres of the Gaussians of a number."""

LEAST_WIDTH = 0.02
"""Of a Gaussian, as a share of the range between the second and the last but one of the centres."""


@dataclass(frozen=True, eq=False)
class SparseRows:
    """Rows with few non-zero entries.

    Args:
        indptr: int64 ``[n + 1]``.
        columns: int64 ``[num_entries]``.
        values: float32 ``[num_entries]``.
        width: number of columns.
    """

    indptr: torch.Tensor
    columns: torch.Tensor
    values: torch.Tensor
    width: int

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return sum(part.nbytes for part in (self.indptr, self.columns, self.values))

    def matmul(self, table: torch.Tensor) -> torch.Tensor:
        """``self @ table``, ``[n, table.shape[1]]``."""
        if not len(self.columns):
            return table.new_zeros(len(self), table.shape[1])
        return torch.nn.functional.embedding_bag(
            self.columns,
            table,
            self.indptr,
            mode="sum",
            per_sample_weights=self.values.to(table.dtype),
            include_last_offset=True,
        )

    def rmatmul(self, matrix: torch.Tensor) -> torch.Tensor:
        """``self.T @ matrix``, ``[width, matrix.shape[1]]``."""
        return self.transpose().matmul(matrix)

    def transpose(self) -> SparseRows:
        """The columns as rows."""
        order = self.columns.argsort(stable=True)
        counts = self.indptr.diff()
        sources = torch.repeat_interleave(torch.arange(len(self), device=counts.device), counts)
        indptr = self.indptr.new_zeros(self.width + 1)
        torch.cumsum(self.columns.bincount(minlength=self.width), 0, out=indptr[1:])
        return SparseRows(indptr, sources[order], self.values[order], len(self))

    def take(self, rows: torch.Tensor) -> SparseRows:
        """Some rows, in the order given, int64 ``[n]``."""
        counts = self.indptr.diff()[rows]
        indptr = self.indptr.new_zeros(len(rows) + 1)
        torch.cumsum(counts, 0, out=indptr[1:])
        shift = torch.repeat_interleave(self.indptr[:-1][rows] - indptr[:-1], counts)
        at = torch.arange(len(shift), device=shift.device) + shift
        return SparseRows(indptr, self.columns[at], self.values[at], self.width)

    def to(self, device: torch.device) -> SparseRows:
        """The same rows on another device."""
        indptr, columns, values = (
            part.to(device) for part in (self.indptr, self.columns, self.values)
        )
        return SparseRows(indptr, columns, values, self.width)

    def to_dense(self) -> torch.Tensor:
        """float32 ``[n, width]``."""
        counts = self.indptr.diff()
        sources = torch.repeat_interleave(torch.arange(len(self), device=counts.device), counts)
        out = self.values.new_zeros(len(self), self.width)
        return out.index_put_((sources, self.columns), self.values, accumulate=True)

    def square_norms(self) -> torch.Tensor:
        """Squared length of every row, ``[n]``."""
        squares = self.values.double() ** 2
        sums = torch.cat([squares.new_zeros(1), squares.cumsum(0)])
        return (sums[self.indptr[1:]] - sums[self.indptr[:-1]]).to(self.values)


Raw = torch.Tensor | SparseRows
"""Raw features of some nodes: dense ``[n, width]`` or sparse rows."""


class FeatureGroup(Protocol):
    """One block of features of any node, seen at training or not; frozen once fitted.

    What a graph encoder is fitted to (see :class:`gnn.encoding.GraphEncoder`).
    """

    kind: ClassVar[str]

    @property
    def name(self) -> str:
        """What the block is called in explanations."""
        ...

    def raw(self, inputs: NodeInputs, rows: np.ndarray, device: torch.device) -> Raw:
        """Raw features of these rows."""
        ...


@runtime_checkable
class KeepsRows(Protocol):
    """A group that keeps something by row of the graph, and so must follow when nodes are gone."""

    def renumbered(self, node_type: str, kept: Mapping[str, np.ndarray]) -> FeatureGroup:
        """The same group after nodes were removed and the rest moved up.

        Args:
            node_type: of the nodes that it describes.
            kept: old rows that stay, in order, by node type; a type that lost none is absent.
        """
        ...


@dataclass(frozen=True, eq=False)
class Constant:
    """A single 1, so that a node without any feature gets the mean node's prior."""

    name: str = "constant"
    kind: ClassVar[str] = "constant"

    def raw(self, inputs: NodeInputs, rows: np.ndarray, device: torch.device) -> torch.Tensor:
        """Ones, ``[n, 1]``."""
        return torch.ones(len(rows), 1, device=device)


@dataclass(frozen=True, eq=False)
class Text:
    """Text vectors (or other ready-made ones) minus the warm mean, to unit length.

    Args:
        name: of the group.
        source: ``text``, ``history``, or the name of ready-made vectors.
        mean: float32 ``[dim]``, the warm nodes' mean.
    """

    name: str
    source: str
    mean: np.ndarray
    kind: ClassVar[str] = "text"

    @classmethod
    def fit(cls, name: str, source: str, inputs: NodeInputs, warm: np.ndarray) -> Text:
        """The group with the mean of the warm nodes that have a vector."""
        if source == "history" and inputs.peer_history is not None:
            matrix = inputs.peer_history(inputs.rows[warm])
        else:
            matrix = vectors_of(inputs, source)[warm]
        present = matrix[np.abs(matrix).sum(axis=1) > 0]
        mean = present.mean(axis=0, dtype=np.float64) if len(present) else np.zeros(matrix.shape[1])
        return cls(name, source, mean.astype(np.float32))

    def raw(self, inputs: NodeInputs, rows: np.ndarray, device: torch.device) -> torch.Tensor:
        """Centred unit rows, ``[n, dim]``; zero for a node without a vector."""
        return centred(vectors_of(inputs, self.source)[rows], self.mean, device)

    def of_peers(self, inputs: NodeInputs, peers: np.ndarray, device: torch.device) -> torch.Tensor:
        """Centred unit rows of any nodes of this type, ``[len(peers), dim]``."""
        return centred(self.peers(inputs, peers), self.mean, device)

    def peers(self, inputs: NodeInputs, peers: np.ndarray) -> np.ndarray:
        """Vectors of any nodes of this type as they are, float32 ``[len(peers), dim]``."""
        of = inputs.peer_history if self.source == "history" else inputs.peer_text
        if of is None:
            raise ValueError(f"these nodes have no {self.source}, which the engine was trained on")
        return of(peers)


@dataclass(frozen=True, eq=False)
class TextKernel:
    """Random Fourier features of the centred text, a Gaussian kernel in the limit.

    Args:
        name: of the group.
        text: the centred text.
        frequencies: float32 ``[dim, NUM_FREQUENCIES]``.

    Source: Rahimi and Recht (2007), Random features for large-scale kernel machines, section 3.
    """

    name: str
    text: Text
    frequencies: np.ndarray
    kind: ClassVar[str] = "text_kernel"

    @classmethod
    def fit(cls, name: str, text: Text) -> TextKernel:
        """The group with frequencies of a fixed seed."""
        rng = np.random.default_rng(0)
        drawn = rng.normal(0, KERNEL_VARIANCE**0.5, (len(text.mean), NUM_FREQUENCIES))
        return cls(name, text, drawn.astype(np.float32))

    def raw(self, inputs: NodeInputs, rows: np.ndarray, device: torch.device) -> torch.Tensor:
        """Cosines and sines, ``[n, 2 * NUM_FREQUENCIES]``; zero for a node without text."""
        x = self.text.raw(inputs, rows, device)
        phase = x @ torch.from_numpy(self.frequencies).to(device)
        present = (x.abs().sum(dim=1, keepdim=True) > 0).float()
        return torch.cat([phase.cos(), phase.sin()], dim=1) * present


@dataclass(frozen=True, eq=False)
class NeighbourText:
    """Mean of the warm neighbours' centred text, alone or blended with a node's own.

    Args:
        name: of the group.
        relation: name of a relation within the type.
        text: the centred text.
        warm: bool ``[num_nodes]`` at training; nodes that came later are not warm.
        blend: whether to return unit-length (own + NEIGHBOUR_SHARE x mean).
    """

    name: str
    relation: str
    text: Text
    warm: np.ndarray
    blend: bool
    kind: ClassVar[str] = "neighbour_text"

    def raw(self, inputs: NodeInputs, rows: np.ndarray, device: torch.device) -> torch.Tensor:
        """``[n, dim]``; zero for a node without neighbours (and text)."""
        links = warm_links(inputs.same_type.get(self.relation), rows, self.warm)
        if len(links.indices):
            needed, places = np.unique(links.indices, return_inverse=True)
            texts = self.text.of_peers(inputs, needed, device)
            share = 1.0 / np.maximum(links.degrees, 1)
            values = np.repeat(share, links.degrees).astype(np.float32)
            mean = _sparse(links.indptr, places, values, len(needed), device).matmul(texts)
        else:
            mean = torch.zeros(len(rows), len(self.text.mean), device=device)
        if not self.blend:
            return mean
        own = self.text.raw(inputs, rows, device)
        return torch.nn.functional.normalize(own + NEIGHBOUR_SHARE * mean, dim=1)


@dataclass(frozen=True, eq=False)
class OneHot:
    """The entities that a node is linked to, rare ones weighing more, to unit length.

    Args:
        name: of the group.
        relations: names of the relations that share this group.
        columns: column of every entity known at training, -1 where it has none, for each relation
            or, where several lead to entities of one type and these are not told apart by how they
            are reached, for each of the ``places``.
        idf: float32 ``[num_columns]``, log((n + 1) / document frequency).
        places: of the columns of every relation; empty where each has its own.
    """

    name: str
    relations: tuple[str, ...]
    columns: tuple[np.ndarray, ...]
    idf: np.ndarray
    places: tuple[int, ...] = ()
    kind: ClassVar[str] = "one_hot"

    @classmethod
    def fit(
        cls,
        name: str,
        relations: tuple[str, ...],
        inputs: NodeInputs,
        warm: np.ndarray,
        together: bool = False,
    ) -> OneHot:
        """The group with a column per entity that at least two warm nodes have.

        Args:
            name: of the group.
            relations: names of the relations that share it.
            inputs: of all nodes.
            warm: rows of those with a training interaction.
            together: an entity has the same column in whichever relation it is reached.
        """
        types = [inputs.entity_types[r] for r in relations] if together else list(relations)
        distinct = list(dict.fromkeys(types))
        columns, idf, start = [], [], 0
        for wanted in distinct:
            some = [r for r, t in zip(relations, types, strict=True) if t == wanted]
            frequency = _frequency([_links(inputs, r).take(warm) for r in some])
            column, kept = _numbered(frequency >= 2, start)
            columns.append(column)
            idf.append(np.log((len(warm) + 1) / frequency[kept]))
            start += len(kept)
        places = tuple(distinct.index(t) for t in types) if together else ()
        idf_ = np.concatenate(idf).astype(np.float32)
        return cls(name, relations, tuple(columns), idf_, places)

    @property
    def by_relation(self) -> Iterator[tuple[str, np.ndarray]]:
        """Every relation and the columns of its entities."""
        places = self.places or range(len(self.relations))
        return ((r, self.columns[at]) for r, at in zip(self.relations, places, strict=True))

    def raw(self, inputs: NodeInputs, rows: np.ndarray, device: torch.device) -> SparseRows:
        """Sparse rows of unit length, ``[n, num_columns]``; empty for a node without entities."""
        sources, columns = [], []
        for relation, column in self.by_relation:
            if (links := inputs.links(relation)) is not None:
                links = links.take(rows)
                sources.append(links.sources)
                columns.append(known(column, links.indices))
        if self.places and sources:
            source, column = np.concatenate(sources), np.concatenate(columns)
            has = column >= 0
            found = Adjacency.from_pairs(source[has], column[has], len(rows), len(self.idf))
            sources, columns = [found.sources], [found.indices]
        return _weighted_rows(sources, columns, self.idf, len(rows), device)

    def columns_of_one(self, inputs: NodeInputs) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """What the only node of these inputs is linked to: relation, entities and their columns.

        Only entities with a column, and where they are not told apart by how they are reached, each
        with the first of the relations that lead to it.
        """
        found = []
        for relation, column in self.by_relation:
            links = inputs.links(relation)
            if links is not None and len(links.indices):
                at = known(column, links.indices)
                found.append((relation, links.indices[at >= 0], at[at >= 0]))
        if not self.places or not found:
            return found
        every = np.concatenate([at for _, _, at in found])
        first = np.zeros(len(every), bool)
        first[np.unique(every, return_index=True)[1]] = True
        parts = np.split(first, np.cumsum([len(at) for _, _, at in found])[:-1])
        return [(r, rows[new], at[new]) for (r, rows, at), new in zip(found, parts, strict=True)]

    def unknown(self, inputs: NodeInputs, rows: np.ndarray) -> np.ndarray:
        """How many links of these rows lead to entities without a column, int64 ``[n]``."""
        counts = np.zeros(len(rows), np.int64)
        for relation, column in self.by_relation:
            if (links := inputs.links(relation)) is not None:
                links = links.take(rows)
                counts += np.bincount(
                    links.sources[known(column, links.indices) < 0], minlength=len(rows)
                )
        return counts

    def renumbered(self, kept: Mapping[str, np.ndarray], entity: Mapping[str, str]) -> OneHot:
        """The same after nodes were removed: old rows that stay, and types, by relation."""
        places = self.places or range(len(self.relations))
        led = {at: kept.get(entity[r]) for r, at in zip(self.relations, places, strict=True)}
        columns = (still_there(column, led[at]) for at, column in enumerate(self.columns))
        return replace(self, columns=tuple(columns))


@dataclass(frozen=True, eq=False)
class NeighbourOneHot:
    """A node itself and its warm neighbours, as entities.

    Args:
        name: of the group.
        relation: name of a relation within the type.
        column: column of every node known at training, -1 where it has none.
        idf: float32 ``[num_columns]``.
        warm: bool ``[num_nodes]`` at training.
    """

    name: str
    relation: str
    column: np.ndarray
    idf: np.ndarray
    warm: np.ndarray
    kind: ClassVar[str] = "neighbour_one_hot"

    @classmethod
    def fit(cls, name: str, relation: str, inputs: NodeInputs, warm: np.ndarray) -> NeighbourOneHot:
        """The group with a column per warm node that occurs at least twice, itself counted."""
        is_warm = np.zeros(len(inputs), bool)
        is_warm[warm] = True
        links = warm_links(inputs.same_type[relation], warm, is_warm)
        frequency = np.bincount(links.indices, minlength=len(inputs))
        frequency[warm] += 1
        column, kept = _numbered((frequency >= 2) & is_warm, 0)
        idf = np.log((len(warm) + 1) / frequency[kept]).astype(np.float32)
        return cls(name, relation, column, idf, is_warm)

    def raw(self, inputs: NodeInputs, rows: np.ndarray, device: torch.device) -> SparseRows:
        """Sparse rows of unit length, ``[n, num_columns]``."""
        links = warm_links(inputs.same_type.get(self.relation), rows, self.warm)
        sources = [links.sources, np.arange(len(rows))]
        columns = [known(self.column, links.indices), known(self.column, inputs.rows[rows])]
        return _weighted_rows(sources, columns, self.idf, len(rows), device)


@dataclass(frozen=True, eq=False)
class Gaussians:
    """A number as ten bumps centred at its quantiles, and as its rank; missing ones are the median.

    No number counts as further out than the first or last centre, so that wrong ones (a year
    199500) and heavy tails do no harm. The rank is what tastes that rise or fall with the number
    need: ten bumps alone learn those slowly.

    Args:
        name: of the group.
        numeric: property.
        centres: float64 ``[10]``, ascending.
        widths: float64 ``[10]``, the gaps between centres, or :data:`LEAST_WIDTH` of the range of
            most numbers where that is more.
        median: stands for a missing number.
        ranked: whether the rank follows the bumps; groups saved before there was one have none.
    """

    name: str
    numeric: str
    centres: np.ndarray
    widths: np.ndarray
    median: float
    ranked: bool = False
    kind: ClassVar[str] = "gaussians"

    @classmethod
    def fit(cls, numeric: str, inputs: NodeInputs, warm: np.ndarray) -> Gaussians | None:
        """The group, or ``None`` where no warm node has the number."""
        values = inputs.numeric[numeric][warm]
        values = values[~np.isnan(values)]
        if not len(values):
            return None
        centres = np.quantile(values, QUANTILES)
        ranges = centres[-2] - centres[1], centres[-1] - centres[0], np.ptp(values), 1.0
        most = next(float(x) for x in ranges if x > 0)
        least = max(LEAST_WIDTH * most, float(np.finfo(float).tiny))
        widths = np.maximum(np.gradient(centres), least)
        return cls(numeric, numeric, centres, widths, float(np.median(values)), ranked=True)

    def raw(self, inputs: NodeInputs, rows: np.ndarray, device: torch.device) -> torch.Tensor:
        """``[n, 11]``: bumps between 0 and 1, and the rank between -1 and 1."""
        return torch.from_numpy(self.bumps(inputs.numeric[self.numeric][rows])).to(device)

    def bumps(self, values: np.ndarray) -> np.ndarray:
        """The features of some numbers, float32 ``[n, 11]``; without a rank ``[n, 10]``."""
        values = np.where(np.isnan(values), self.median, values)
        if not self.ranked:
            return self._heights(values).astype(np.float32)
        values = values.clip(self.centres[0], self.centres[-1])
        places, ranks = self._ranks
        rank = np.interp(values, places, ranks)
        return np.column_stack([self._heights(values), rank]).astype(np.float32)

    def _heights(self, values: np.ndarray) -> np.ndarray:
        return np.exp(-0.5 * ((values[:, None] - self.centres) / self.widths) ** 2)

    @cached_property
    def _ranks(self) -> tuple[np.ndarray, np.ndarray]:
        """Distinct centres and the mean rank of each, from -1 to 1."""
        places, inverse, counts = np.unique(self.centres, return_inverse=True, return_counts=True)
        ranks = np.linspace(-1, 1, len(self.centres))
        return places, np.bincount(inverse, ranks) / counts


@dataclass(frozen=True, eq=False)
class Category:
    """A category, or a set of them, as one-hot; values unseen at training contribute nothing.

    Args:
        name: of the group.
        categorical: property.
        values: known values in column order.
    """

    name: str
    categorical: str
    values: tuple[str, ...]
    kind: ClassVar[str] = "category"

    @classmethod
    def fit(cls, categorical: str, inputs: NodeInputs, warm: np.ndarray) -> Category | None:
        """The group with a column per value of a warm node, or ``None`` where none has any."""
        given = inputs.categorical[categorical]
        values = tuple(sorted({v for row in warm for v in given[row]}))
        return cls(categorical, categorical, values) if values else None

    def raw(self, inputs: NodeInputs, rows: np.ndarray, device: torch.device) -> SparseRows:
        """Sparse rows, ``[n, num_values]``."""
        given = inputs.categorical[self.categorical]
        found = [self.columns_of(given[row]) for row in rows]
        indptr = np.concatenate([[0], np.cumsum([len(f) for f in found])]).astype(np.int64)
        columns = np.fromiter((c for f in found for c in f), np.int64, int(indptr[-1]))
        values = np.ones(len(columns), np.float32)
        return _sparse(indptr, columns, values, len(self.values), device)

    def columns_of(self, given: list[str]) -> list[int]:
        """Columns of the known ones among the values of a node, ascending."""
        places = self._places
        return sorted({places[v] for v in given if v in places})

    @cached_property
    def _places(self) -> dict[str, int]:
        return {v: i for i, v in enumerate(self.values)}


def _links(inputs: NodeInputs, relation: str) -> Adjacency:
    links = inputs.links(relation)
    if links is None:
        raise ValueError(
            f"these nodes have no relation {relation!r}, only {[*inputs.entity_types]}"
        )
    return links


def centred(matrix: np.ndarray, mean: np.ndarray, device: torch.device) -> torch.Tensor:
    """Rows minus the mean, to unit length; zero rows stay zero."""
    x = torch.from_numpy(np.ascontiguousarray(matrix, np.float32)).to(device)
    present = x.abs().sum(dim=1, keepdim=True) > 0
    unit = torch.nn.functional.normalize(x - torch.from_numpy(mean).to(device), dim=1)
    return unit * present


def warm_links(links: Adjacency | None, rows: np.ndarray, warm: np.ndarray) -> Adjacency:
    """The links of these rows to nodes that were warm at training."""
    if links is None:
        return Adjacency(np.zeros(len(rows) + 1, np.int64), np.empty(0, np.int64), len(warm))
    links = links.take(rows)
    return links.select(leads_to_warm(links.indices, warm))


def leads_to_warm(indices: np.ndarray, warm: np.ndarray) -> np.ndarray:
    """Whether nodes were warm at training, bool ``[n]``; those that came later were not."""
    inside = indices < len(warm)
    return inside & warm[np.where(inside, indices, 0)] if len(warm) else inside


def still_there(values: np.ndarray, kept: np.ndarray | None) -> np.ndarray:
    """What was kept by row, after nodes were removed; rows later than training have nothing.

    Args:
        values: by row at training.
        kept: old rows that stay, in order; ``None``: all do.
    """
    return values if kept is None else values[kept[kept < len(values)]]


def known(column: np.ndarray, entities: np.ndarray) -> np.ndarray:
    """The column of every entity; -1 for those without, nodes later than training among them."""
    inside = entities < len(column)
    if inside.all():
        return column[entities]
    return np.where(inside, column[np.where(inside, entities, 0)] if len(column) else -1, -1)


def vectors_of(inputs: NodeInputs, source: str) -> np.ndarray:
    """The text or ready-made vectors of these nodes.

    Raises:
        ValueError: they have none of that name.
    """
    matrix = {"text": inputs.text, **inputs.vectors}.get(source)
    if matrix is None:
        raise ValueError(f"these nodes have no vectors {source!r}, which the engine was trained on")
    return matrix


def _frequency(links: list[Adjacency]) -> np.ndarray:
    """How many nodes are linked to each target, int64 ``[num_targets]``."""
    if len(links) == 1:
        return np.bincount(links[0].indices, minlength=links[0].num_targets)
    sources = np.concatenate([one.sources for one in links])
    targets = np.concatenate([one.indices for one in links])
    size = len(links[0]), links[0].num_targets
    return np.bincount(Adjacency.from_pairs(sources, targets, *size).indices, minlength=size[1])


def _numbered(keep: np.ndarray, start: int) -> tuple[np.ndarray, np.ndarray]:
    kept = np.flatnonzero(keep)
    column = np.full(len(keep), -1, np.int64)
    column[kept] = start + np.arange(len(kept))
    return column, kept


def _weighted_rows(
    sources: list[np.ndarray],
    columns: list[np.ndarray],
    idf: np.ndarray,
    num_rows: int,
    device: torch.device,
) -> SparseRows:
    known_ = [column >= 0 for column in columns]
    sources = [source[keep] for source, keep in zip(sources, known_, strict=True)]
    columns = [column[keep] for column, keep in zip(columns, known_, strict=True)]
    values = [idf[column] for column in columns]
    return unit_rows(sources, columns, values, len(idf), num_rows, device)


def unit_rows(
    sources: list[np.ndarray],
    columns: list[np.ndarray],
    values: list[np.ndarray],
    width: int,
    num_rows: int,
    device: torch.device,
) -> SparseRows:
    """Sparse rows of unit length from the row, column and value of every entry, in any order.

    Args:
        sources: rows, in parts.
        columns: their columns.
        values: their values before they are divided by the length of the row.
        width: number of columns.
        num_rows: number of rows; one without an entry stays zero.
        device: where they go.
    """
    source, column = (np.concatenate([np.empty(0, np.int64), *x]) for x in (sources, columns))
    value = np.concatenate([np.empty(0), *values])
    if len(sources) > 1:
        order = np.lexsort((column, source))
        source, column, value = source[order], column[order], value[order]
    square = np.bincount(source, value**2, minlength=num_rows)
    value = value / np.sqrt(np.maximum(square, 1e-30))[source]
    counts = np.bincount(source, minlength=num_rows)
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return _sparse(indptr, column, value.astype(np.float32), width, device)


def _sparse(
    indptr: np.ndarray, columns: np.ndarray, values: np.ndarray, width: int, device: torch.device
) -> SparseRows:
    indptr_, columns_, values_ = (
        torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in (indptr, columns, values)
    )
    return SparseRows(indptr_, columns_, values_, width)
