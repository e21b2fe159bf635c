"""Neighbours drawn for mini-batches: typed, multi-hop, in plain torch, on a CPU or GPU.

What is drawn for a node follows from seed, layer, relation and node alone, by a hash in place of a
stream of random numbers. So a node has the same neighbours in whatever company it is drawn, and
processes that share a batch draw what one process would.
"""

from __future__ import annotations

import operator
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gnn.typed import Incoming, TypedGraph
from kg.schema import EdgeType

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64)

Fanout = int | Mapping[EdgeType, int]
"""Neighbours drawn per relation: one number for all, or by edge type; -1 for every neighbour."""


@dataclass(frozen=True, eq=False)
class Block:
    """Who is linked to whom in one layer; the sources of a type begin with its targets.

    Args:
        edge_index: by edge type int64 ``[2, num_edges]``, place of the source among the sources of
            its type above place of the target among the targets of its type.
        num_targets: by node type.
        num_sources: by node type.
    """

    edge_index: Mapping[EdgeType, torch.Tensor]
    num_targets: Mapping[str, int]
    num_sources: Mapping[str, int]


@dataclass(frozen=True, eq=False)
class Sampled:
    """The neighbourhood of some seeds.

    Args:
        nodes: rows of the sources of the first block, int64, by type.
        blocks: in order of computation; the targets of the last are the seeds in their order.
        times: of these nodes, where seeds had times.
    """

    nodes: Mapping[str, torch.Tensor]
    blocks: tuple[Block, ...]
    times: Mapping[str, torch.Tensor] | None = None


def sample(
    graph: TypedGraph,
    seeds: Mapping[str, torch.Tensor],
    fanouts: Sequence[Fanout],
    *,
    seed: int,
    replace: bool = False,
    times: Mapping[str, torch.Tensor] | None = None,
    exclude: Mapping[EdgeType, torch.Tensor] | None = None,
) -> Sampled:
    """Draw neighbours layer by layer, from the seeds outwards.

    In every layer each node so far draws afresh, for every relation that arrives at its type.

    Args:
        graph: on the device of the seeds.
        seeds: rows by type, int64; distinct unless they have times.
        fanouts: a layer each, that of the seeds first.
        seed: of the draws.
        replace: whether draws are independent; otherwise every subset is as likely as another, and
            a node with fewer neighbours than are wanted has all of them.
        times: of the seeds, by type. No edge later than its seed is then followed at any depth, and
            a node reached from seeds of two times is there twice.
        exclude: rows of source and target, ``[2, n]`` by edge type, of edges that are not there;
            all edges of that type between the two. Where the graph has their reverses, these are
            a type of their own.

    Raises:
        ValueError: seeds are no rows of the graph, repeat without times, or lack times; a fan-out
            is below -1, or for edges that the graph does not have, as edges to exclude may not be.
    """
    seed = operator.index(seed)
    _check_edge_types(graph, fanouts, exclude or {})
    now = {t: at.to(torch.int64) for t, at in seeds.items() if len(at)}
    for node_type, at in now.items():
        _check_rows(graph, node_type, at)
    when = None
    if times is not None:
        when = {t: times[t].to(torch.float64) for t in now if t in times}
        if any(len(when.get(t, ())) != len(at) for t, at in now.items()):
            raise ValueError("with times, every seed needs one; give as many as there are seeds")
    else:
        for node_type, at in now.items():
            if len(torch.unique(at)) < len(at):
                raise ValueError(f"seeds of type {node_type!r} repeat; give each row once")
    blocks = []
    for layer, fanout in enumerate(fanouts):
        drawn: dict[EdgeType, tuple[torch.Tensor, torch.Tensor]] = {}
        for edge_type, edges in graph.edges.items():
            wanted = fanout.get(edge_type, 0) if isinstance(fanout, Mapping) else fanout
            if edge_type[2] not in now or not wanted or not len(edges):
                continue
            key = zlib.crc32(repr((seed, layer, edge_type)).encode()) + (seed << 32)
            drawn[edge_type] = _neighbours(
                *(edges, now[edge_type[2]], None if when is None else when[edge_type[2]]),
                *(wanted, replace, key),
                None if exclude is None else exclude.get(edge_type),
                graph.num_nodes[edge_type[0]],
            )
        before = now
        now, when, block = _renumbered(graph, before, when, drawn)
        blocks.append(block)
    return Sampled(now, tuple(reversed(blocks)), when)


def _check_edge_types(
    graph: TypedGraph, fanouts: Sequence[Fanout], exclude: Mapping[EdgeType, torch.Tensor]
) -> None:
    named = set(exclude)
    for fanout in fanouts:
        by_type = fanout if isinstance(fanout, Mapping) else {"all": fanout}
        named |= by_type.keys() - {"all"}
        for wanted in by_type.values():
            if operator.index(wanted) < -1:
                raise ValueError(f"a fan-out must be -1 (all) or more, got {wanted}")
    if unknown := named - graph.edges.keys():
        raise ValueError(
            f"the graph has no edges {min(unknown)}, to draw or to exclude; it has "
            f"{list(graph.edge_types)}"
        )


def _check_rows(graph: TypedGraph, node_type: str, rows: torch.Tensor) -> None:
    if node_type not in graph.num_nodes:
        raise ValueError(
            f"seeds: the graph has no nodes of type {node_type!r}; it has {list(graph.node_types)}"
        )
    (low, high), count = rows.aminmax(), graph.num_nodes[node_type]
    if low < 0 or high >= count:
        raise ValueError(
            f"seeds of type {node_type!r} must be rows 0 to {count - 1}; "
            f"got {int(low)} to {int(high)}"
        )


def _neighbours(
    edges: Incoming,
    rows: torch.Tensor,
    when: torch.Tensor | None,
    fanout: int,
    replace: bool,
    key: int,
    excluded: torch.Tensor | None,
    num_sources: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of the neighbours drawn, and for each the place of the row that drew it."""
    starts = _taken(edges.indptr, rows)
    counts = _taken(edges.indptr, rows + 1) - starts
    if when is not None and edges.times is not None:
        counts = _not_later(edges.times, starts, counts, when)
    keys = _mixed(_mixed(rows ^ _signed(key)) ^ (0 if when is None else when.view(torch.int64)))
    indices: torch.Tensor | _Joined = edges.indices
    if excluded is not None and excluded.shape[1]:
        starts, counts, indices = _without(
            edges.indices, rows, starts, counts, excluded, num_sources
        )
    if fanout < 0:
        places, at = _every(starts, counts)
    elif replace:
        places = _true(counts > 0).repeat_interleave(fanout)
        number = torch.arange(len(places), device=rows.device) % fanout
        at = _taken(starts, places) + _below(
            _mixed(_taken(keys, places) + number * _GOLDEN), _taken(counts, places)
        )
    else:
        few = _true((counts > 0) & (counts <= fanout))
        many = _true(counts > fanout)
        places, at = _every(_taken(starts, few), _taken(counts, few))
        chosen = _subset(_taken(keys, many), _taken(counts, many), fanout)
        chosen += _taken(starts, many)
        places = torch.cat([_taken(few, places), many.repeat(fanout)])
        at = torch.cat([at, chosen.flatten()])
    return indices.index_select(0, at), places


def _subset(keys: torch.Tensor, counts: torch.Tensor, size: int) -> torch.Tensor:
    """A uniform subset of 0 to counts - 1 for every key, int64 ``[size, n]``.

    Source: Bentley and Floyd (1987), A sample of brilliance, algorithm F2.
    """
    out = torch.empty(size, len(keys), dtype=torch.int64, device=keys.device)
    last, hashed = counts - size, keys
    for j in range(size):
        # One hash is good for two draws.
        hashed = hashed << 32 if j % 2 else _mixed(keys + _signed(j * _GOLDEN))
        drawn = _below(hashed, last + 1)
        if j:  # the largest of bytes is found faster than any() of bools
            there = (out[:j] == drawn).view(torch.uint8).amax(dim=0).view(torch.bool)
            drawn = torch.where(there, last, drawn)
        out[j] = drawn
        last += 1
    return out


def _every(starts: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All positions from each start, and whose they are."""
    places = torch.repeat_interleave(counts)
    before = counts.cumsum(0) - counts
    at = _taken(starts - before, places)
    return places, at.add_(torch.arange(len(places), device=starts.device))


def _without(
    indices: torch.Tensor,
    rows: torch.Tensor,
    starts: torch.Tensor,
    counts: torch.Tensor,
    excluded: torch.Tensor,
    num_sources: int,
) -> tuple[torch.Tensor, torch.Tensor, _Joined]:
    """The same neighbour lists, those with an excluded edge written anew behind the others."""
    excluded = excluded.to(torch.int64)  # or the products overflow
    hit = _true(torch.isin(rows, excluded[1]))
    places, at = _every(_taken(starts, hit), _taken(counts, hit))
    found = _taken(indices, at)
    pairs = _taken(_taken(rows, hit), places) * num_sources + found
    keep = ~torch.isin(pairs, excluded[1] * num_sources + excluded[0])
    left = torch.bincount(places[keep], minlength=len(hit))
    starts, counts = starts.clone(), counts.clone()
    starts[hit] = len(indices) + left.cumsum(0) - left
    counts[hit] = left
    return starts, counts, _Joined(indices, found[keep])


class _Joined:
    """Two arrays behind one another, of which only what is asked for is copied."""

    def __init__(self, first: torch.Tensor, second: torch.Tensor) -> None:
        self.first, self.second = first, second

    def index_select(self, dim: int, at: torch.Tensor) -> torch.Tensor:
        """As of a tensor."""
        late = _true(at >= len(self.first))
        out = _taken(self.first, at.index_fill(0, late, 0))
        return out.index_copy_(0, late, _taken(self.second, _taken(at, late) - len(self.first)))


def _not_later(
    times: torch.Tensor, starts: torch.Tensor, counts: torch.Tensor, when: torch.Tensor
) -> torch.Tensor:
    """How many of each row's edges, which ascend in time, are not later than the row's time."""
    low, high = torch.zeros_like(counts), counts.clone()
    while (open_ := low < high).any():
        middle = (low + high) // 2
        at = torch.where(open_, starts + middle, 0)
        early = open_ & (_taken(times, at) <= when)
        low = torch.where(early, middle + 1, low)
        high = torch.where(open_ & ~early, middle, high)
    return low


def _renumbered(
    graph: TypedGraph,
    before: dict[str, torch.Tensor],
    when: dict[str, torch.Tensor] | None,
    drawn: dict[EdgeType, tuple[torch.Tensor, torch.Tensor]],
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor] | None, Block]:
    """The nodes so far and the new ones behind them, and the edges among their places."""
    sources: dict[str, list[torch.Tensor]] = {}
    source_times: dict[str, list[torch.Tensor]] = {}
    for edge_type, (rows, targets) in drawn.items():
        sources.setdefault(edge_type[0], []).append(rows)
        if when is not None:
            source_times.setdefault(edge_type[0], []).append(_taken(when[edge_type[2]], targets))
    after, after_when = dict(before), None if when is None else dict(when)
    place: dict[str, torch.Tensor] = {}
    for node_type, parts in sources.items():
        rows = _joined(parts)
        old = before.get(node_type, rows.new_empty(0))
        if when is None or after_when is None:
            new, place[node_type] = _placed(old, rows, graph.num_nodes[node_type])
            after[node_type] = torch.cat([old, new])
            continue
        asked = _joined(source_times[node_type])
        old_when = when.get(node_type, asked.new_empty(0))
        # The number of a time and the row make one number; the same instance, the same number.
        values, number = torch.unique(torch.cat([old_when, asked]), return_inverse=True)
        count = graph.num_nodes[node_type]
        instances = number * count + torch.cat([old, rows])
        new, place[node_type] = _placed(
            instances[: len(old)], instances[len(old) :], count * len(values)
        )
        after[node_type] = torch.cat([old, new % count])
        after_when[node_type] = torch.cat([old_when, _taken(values, new // count)])
    edge_index, used = {}, dict.fromkeys(place, 0)
    for edge_type, (rows, targets) in drawn.items():
        start = used[edge_type[0]]
        used[edge_type[0]] = start + len(rows)
        edge_index[edge_type] = torch.empty(2, len(rows), dtype=torch.int64, device=rows.device)
        edge_index[edge_type][0] = place[edge_type[0]][start : start + len(rows)]
        edge_index[edge_type][1] = targets
    block = Block(
        edge_index, {t: len(v) for t, v in before.items()}, {t: len(v) for t, v in after.items()}
    )
    return after, after_when, block


def _placed(old: torch.Tensor, rows: torch.Tensor, bound: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows that are not among the old ones, ascending, and the place of each row given.

    Seeds may repeat where they have times; a row then stands for the last of them, which is equal.
    """
    if len(rows) * 16 > bound:  # a look at every node is cheaper than sorting
        is_new = torch.zeros(bound, dtype=torch.bool, device=rows.device)
        is_new.index_fill_(0, rows, True).index_fill_(0, old, False)
        place = is_new.cumsum(0, dtype=torch.int32).add_(len(old) - 1)
        number = torch.arange(len(old), dtype=torch.int32, device=rows.device)
        place.scatter_reduce_(0, old, number, "amax", include_self=False)
        return _true(is_new), _taken(place, rows)
    distinct, back = torch.unique(rows, return_inverse=True)
    order = torch.argsort(old, stable=True)
    at = (torch.searchsorted(old, distinct, sorter=order, right=True) - 1).clamp(min=0)
    known = torch.zeros_like(distinct, dtype=torch.bool)
    if len(old):
        known = _taken(old, _taken(order, at)) == distinct
    new = distinct[~known]
    place = torch.empty_like(distinct)
    place[~known] = len(old) + torch.arange(len(new), device=rows.device)
    if len(old):
        place[known] = order[at[known]]
    return new, _taken(place, back)


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _true(mask: torch.Tensor) -> torch.Tensor:
    """Where a mask is true, int64; on a CPU by numpy, which is ten times as fast."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return torch.nonzero(mask).squeeze(1)


def _taken(values: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """``values[at]``, which torch reads five times as fast when it is called this."""
    return values.index_select(0, at)


def _mixed(x: torch.Tensor) -> torch.Tensor:
    """A hash of int64 numbers.

    Source: Steele et al. (2014), Fast splittable pseudorandom number generators, mix64 variant 13;
    int64 wraps around as uint64 does, and the shifts are made logical by a mask.
    """
    x = x + _GOLDEN
    x.bitwise_xor_((x >> 30).bitwise_and_((1 << 34) - 1)).mul_(_FIRST)
    x.bitwise_xor_((x >> 27).bitwise_and_((1 << 37) - 1)).mul_(_SECOND)
    return x.bitwise_xor_((x >> 31).bitwise_and_((1 << 33) - 1))


def _below(hashed: torch.Tensor, bound: torch.Tensor) -> torch.Tensor:
    """A whole number from 0 to below the bound, below 2 ** 31, by the upper half of a hash.

    Even but for a share of bound / 2 ** 32. Source: Lemire (2019), Fast random integer generation
    in an interval, section 3.
    """
    return (hashed >> 32).bitwise_and_((1 << 32) - 1).mul_(bound) >> 32


def _signed(key: int) -> int:
    key &= (1 << 64) - 1
    return key - (1 << 64) if key >= 1 << 63 else key
