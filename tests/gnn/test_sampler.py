"""What is drawn, judged by chi-square and against a naive reference in plain Python."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from gnn import sampler
from gnn.sampler import sample
from gnn.typed import Incoming, TypedGraph, reverse_type, typed_graph
from kg.toy import toy_graph

LIKED = ("user", "liked", "item")
KNOWS = ("user", "knows", "user")
SEEDS = 4000


def one_list(sources, times=None, num_sources=100):
    """A graph in which every item has the same list of users."""
    index = np.tile(np.array(sources), SEEDS)
    targets = np.repeat(np.arange(SEEDS), len(sources))
    when = None if times is None else np.tile(np.array(times, float), SEEDS)
    edges = {LIKED: Incoming.from_edges(index, targets, SEEDS, when)}
    return TypedGraph({"user": num_sources, "item": SEEDS}, edges)


def every_item(**options):
    return {"item": torch.arange(SEEDS)}, options


def drawn_by(out, edge_type=LIKED, layer=-1):
    """Of every target of a block, the rows drawn, in order."""
    block = out.blocks[layer]
    kind = edge_type[0]
    rows = out.nodes[kind][: block.num_sources[kind]]
    lists = [[] for _ in range(block.num_targets[edge_type[2]])]
    for source, target in block.edge_index.get(edge_type, torch.empty(2, 0)).T.tolist():
        lists[int(target)].append(int(rows[int(source)]))
    return lists


def evenly(counter, kinds):
    """Whether each of the kinds, and no other, came equally often; wrong once in 10,000."""
    assert set(counter) <= set(kinds), set(counter) - set(kinds)
    assert chisquare([counter[kind] for kind in kinds]).pvalue > 1e-4


def random_graph(seed, num_edges=60):
    """Self-loops, duplicates, isolated nodes, a relation with one edge, types without nodes."""
    rng = np.random.default_rng(seed)
    num = {"user": 12, "item": 9, "genre": 3, "nothing": 0}
    types = {LIKED: num_edges, KNOWS: num_edges, ("genre", "of", "item"): 1}
    edges = {("nothing", "at", "item"): Incoming.from_edges(*np.empty((2, 0), np.int64), 9)}
    for (source, relation, target), count in types.items():
        ends = rng.integers(num[source] - 1, size=count), rng.integers(num[target] - 1, size=count)
        times = rng.integers(10, size=count).astype(float)
        edges[source, relation, target] = Incoming.from_edges(*ends, num[target], times)
        back = Incoming.from_edges(*ends[::-1], num[source], times)
        edges[reverse_type((source, relation, target))] = back
    return TypedGraph(num, edges)


def listed(edges, target, until=np.inf):
    """The sources of one target, naively."""
    at = range(int(edges.indptr[target]), int(edges.indptr[target + 1]))
    return [int(edges.indices[i]) for i in at if edges.times is None or edges.times[i] <= until]


def links_of(out, layer):
    """Edges of a block as (edge type, source instance, target instance), counted."""
    block = out.blocks[layer]

    def name(kind, place):
        time = None if out.times is None else float(out.times[kind][place])
        return (int(out.nodes[kind][place]), time)

    return Counter(
        (e, name(e[0], source), name(e[2], target))
        for e, index in block.edge_index.items()
        for source, target in index.T.tolist()
    )


def same(a, b):
    """Whether two results are equal to the last place."""
    assert {t: v.tolist() for t, v in a.nodes.items()} == {
        t: v.tolist() for t, v in b.nodes.items()
    }
    for one, other in zip(a.blocks, b.blocks, strict=True):
        assert one.num_targets == other.num_targets
        assert one.num_sources == other.num_sources
        assert one.edge_index.keys() == other.edge_index.keys()
        for edge_type, index in one.edge_index.items():
            assert torch.equal(index.cpu(), other.edge_index[edge_type].cpu())


# --- what is drawn is even ------------------------------------------------------------------------


@pytest.mark.parametrize(("degree", "fanout"), [(7, 3), (50, 10), (11, 10), (5, 1)])
def test_without_replacement_every_neighbour_and_every_pair_comes_equally_often(degree, fanout):
    graph = one_list(range(degree))
    lists = drawn_by(sample(graph, {"item": torch.arange(SEEDS)}, [fanout], seed=1))
    assert all(len(set(drawn)) == len(drawn) == fanout for drawn in lists)
    evenly(Counter(row for drawn in lists for row in drawn), range(degree))
    if fanout > 1:
        pairs = Counter(pair for drawn in lists for pair in combinations(sorted(drawn), 2))
        evenly(pairs, list(combinations(range(degree), 2)))


def test_every_subset_is_as_likely_as_another():
    lists = drawn_by(sample(one_list(range(6)), {"item": torch.arange(SEEDS)}, [3], seed=2))
    evenly(Counter(tuple(sorted(x)) for x in lists), list(combinations(range(6), 3)))


def test_seeds_draw_independently_of_each_other_and_of_the_number_before():
    graph, seeds = one_list(range(5)), {"item": torch.arange(SEEDS)}
    first = [x[0] for x in drawn_by(sample(graph, seeds, [1], seed=3))]
    again = [x[0] for x in drawn_by(sample(graph, seeds, [1], seed=4))]
    kinds = [(a, b) for a in range(5) for b in range(5)]
    evenly(Counter(zip(first, again, strict=True)), kinds)
    evenly(Counter(zip(first[::2], first[1::2], strict=True)), kinds)


def test_with_replacement_draws_are_independent():
    graph, seeds = one_list(range(4)), {"item": torch.arange(SEEDS)}
    lists = drawn_by(sample(graph, seeds, [3], seed=5, replace=True))
    assert {len(drawn) for drawn in lists} == {3}
    triples = [(a, b, c) for a in range(4) for b in range(4) for c in range(4)]
    evenly(Counter(tuple(drawn) for drawn in lists), triples)


def test_what_is_excluded_is_never_drawn_and_the_rest_evenly():
    """User 7 is there twice, and both go; items without an exclusion keep all."""
    graph, seeds = one_list([0, 1, 2, 7, 7, 9]), {"item": torch.arange(SEEDS)}
    half = torch.arange(0, SEEDS, 2)
    gone = torch.cat([torch.stack([torch.full_like(half, user), half]) for user in (7, 2)], dim=1)
    lists = drawn_by(sample(graph, seeds, [2], seed=6, exclude={LIKED: gone}))
    evenly(Counter(tuple(sorted(x)) for x in lists[::2]), [(0, 1), (0, 9), (1, 9)])
    kept = Counter(row for drawn in lists[1::2] for row in drawn)
    assert chisquare([kept[0], kept[1], kept[2], kept[7] / 2, kept[9]]).pvalue > 1e-4
    with_replacement = sample(graph, seeds, [4], seed=6, replace=True, exclude={LIKED: gone})
    evenly(Counter(row for x in drawn_by(with_replacement)[::2] for row in x), [0, 1, 9])


def test_no_edge_later_than_its_seed_is_drawn_and_the_rest_evenly():
    graph = one_list(range(6), times=[5, 1, 4, 2, 6, 3])
    times = {"item": torch.arange(SEEDS).remainder(7).double()}
    lists = drawn_by(sample(graph, {"item": torch.arange(SEEDS)}, [2], seed=7, times=times))
    assert {len(x) for x in lists[0::7]} == {0}
    assert {tuple(x) for x in lists[1::7]} == {(1,)}
    evenly(Counter(tuple(sorted(x)) for x in lists[4::7]), list(combinations((1, 2, 3, 5), 2)))
    evenly(Counter(row for x in lists[6::7] for row in x), range(6))


# --- draws belong to nodes ------------------------------------------------------------------------


def neighbourhood(out, row):
    """What two layers say about a user: layer, edge type, row of source and target."""
    place = out.nodes["user"].tolist().index(row)
    found, places = [], {"user": {place}}
    for layer in (1, 0):
        reached = {}
        for edge_type, index in sorted(out.blocks[layer].edge_index.items()):
            for source, target in index.T.tolist():
                if target in places.get(edge_type[2], ()):
                    reached.setdefault(edge_type[0], set()).add(source)
                    ends = edge_type[0], edge_type[2]
                    rows = [
                        int(out.nodes[t][p]) for t, p in zip(ends, (source, target), strict=True)
                    ]
                    found.append((layer, edge_type, *rows))
        for kind, at in reached.items():
            places[kind] = places.get(kind, set()) | at
    return sorted(found)


def test_a_node_has_the_same_neighbours_in_any_company():
    graph = random_graph(0)
    one, other = (
        sample(graph, {"user": torch.tensor(rows)}, [2, 2], seed=8) for rows in ([1, 2], [3, 2])
    )
    assert neighbourhood(one, 2) == neighbourhood(other, 2)
    assert len(neighbourhood(one, 2)) > 8


def test_a_split_of_the_seeds_draws_what_the_whole_does():
    graph, rows = random_graph(1), torch.randperm(12)
    whole = sample(graph, {"user": rows}, [3, 2], seed=9)
    for part in rows.split(5):
        out = sample(graph, {"user": part}, [3, 2], seed=9)
        assert out.nodes["user"][: len(part)].tolist() == part.tolist()
        for row in part.tolist():
            assert neighbourhood(out, row) == neighbourhood(whole, row)


def test_another_seed_and_another_layer_draw_something_else():
    graph = random_graph(2)
    users = {"user": torch.arange(12)}
    one, again, other = (sample(graph, users, [2, 2], seed=s) for s in (1, 1, 2))
    same(one, again)
    assert links_of(one, 1) != links_of(other, 1)
    assert any(links_of(one, 0)[link] < count for link, count in links_of(one, 1).items())


def test_threads_change_nothing():
    graph, threads = random_graph(3), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = sample(graph, {"item": torch.arange(9)}, [2, 2], seed=1)
        torch.set_num_threads(2)
        same(one, sample(graph, {"item": torch.arange(9)}, [2, 2], seed=1))
    finally:
        torch.set_num_threads(threads)


# --- all neighbours -------------------------------------------------------------------------------


def reference(graph, seeds, layers, exclude=(), timed=False):
    """Every edge of every layer, naively; instances are (row, time or None)."""
    now, out = {t: list(dict.fromkeys(v)) for t, v in seeds.items()}, []
    for _ in range(layers):
        links, after = Counter(), {t: dict.fromkeys(v) for t, v in now.items()}
        for edge_type, edges in graph.edges.items():
            for row, time in now.get(edge_type[2], ()):
                for source in listed(edges, row, time if timed else np.inf):
                    if (edge_type, source, row) not in exclude:
                        links[edge_type, (source, time), (row, time)] += 1
                        after.setdefault(edge_type[0], {})[source, time] = None
        now, _ = {t: list(v) for t, v in after.items()}, out.append(links)
    return now, out[::-1]


@pytest.mark.parametrize("fanout", [-1, 60])
@pytest.mark.parametrize("seed", range(5))
def test_a_full_fan_out_is_the_exact_neighbourhood(seed, fanout):
    graph = random_graph(seed)
    seeds = {"user": torch.tensor([11, 3, 4]), "item": torch.tensor([8])}
    gone = {(KNOWS, 1, 3), (LIKED, 2, 0), (LIKED, 3, 1)}
    exclude = {
        e: torch.tensor([pair[1:] for pair in gone if pair[0] == e]).T for e in (KNOWS, LIKED)
    }
    out = sample(graph, seeds, [fanout] * 3, seed=0, exclude=exclude)
    instances = {t: [(row, None) for row in rows.tolist()] for t, rows in seeds.items()}
    nodes, links = reference(graph, instances, 3, gone)
    assert [links_of(out, layer) for layer in range(3)] == links
    for kind, rows in out.nodes.items():
        assert sorted(rows.tolist()) == sorted(row for row, _ in nodes.get(kind, ()))
        assert rows[: len(seeds.get(kind, ()))].tolist() == seeds.get(kind, rows[:0]).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_with_times_it_is_the_exact_neighbourhood_of_that_time(seed):
    graph = random_graph(seed)
    seeds = {"user": torch.tensor([3, 3, 4]), "item": torch.tensor([1, 8])}
    times = {"user": torch.tensor([2.0, 7.0, 7.0]), "item": torch.tensor([5.0, 7.0])}
    out = sample(graph, seeds, [-1] * 3, seed=0, times=times)
    instances = {t: list(zip(seeds[t].tolist(), times[t].tolist(), strict=True)) for t in seeds}
    nodes, links = reference(graph, instances, 3, timed=True)
    assert [links_of(out, layer) for layer in range(3)] == links
    assert out.times is not None
    for kind, rows in out.nodes.items():
        drawn = zip(rows.tolist(), out.times[kind].tolist(), strict=True)
        assert sorted(drawn) == sorted(nodes.get(kind, ()))


@pytest.mark.parametrize("replace", [False, True])
def test_drawn_edges_are_edges_of_the_graph_and_none_is_later_than_its_seed(replace):
    graph = random_graph(6)
    seeds, times = {"user": torch.arange(12)}, {"user": torch.arange(12).double()}
    out = sample(graph, seeds, [2, 3, 2], seed=3, times=times, replace=replace)
    for layer in range(3):
        for (edge_type, source, target), count in links_of(out, layer).items():
            assert source[1] == target[1]
            allowed = listed(graph.edges[edge_type], target[0], target[1]).count(source[0])
            assert allowed if replace else count <= allowed


def test_fan_outs_by_edge_type_and_no_seeds():
    graph = random_graph(7)
    out = sample(graph, {"item": torch.arange(9)}, [{LIKED: 2}], seed=0)
    assert set(out.blocks[0].edge_index) == {LIKED}
    assert max(len(rows) for rows in drawn_by(out)) == 2
    none = sample(graph, {"item": torch.empty(0, dtype=torch.int64)}, [2, 2], seed=0)
    assert (none.nodes, len(none.blocks)) == ({}, 2)


# --- inside ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_old", [0, 1, 20, 80])
def test_both_ways_of_numbering_nodes_agree(num_old):
    """Old rows repeat as seeds with times do; each stands for the last of its kind."""
    rng = np.random.default_rng(num_old)
    old, rows = (torch.from_numpy(rng.integers(50, size=count)) for count in (num_old, 90))
    looked, by_look = sampler._placed(old, rows, 50)
    ordered, by_sort = sampler._placed(old, rows, 90 * 16)
    assert looked.tolist() == ordered.tolist() == sorted({*rows.tolist()} - {*old.tolist()})
    last = {row: place for place, row in enumerate([*old.tolist(), *looked.tolist()])}
    assert by_look.tolist() == by_sort.tolist() == [last[row] for row in rows.tolist()]


def test_the_hash_is_that_of_the_paper():
    """The first numbers of SplitMix64 from 0, as Java's SplittableRandom and xoshiro's seeder."""
    state = torch.tensor([0, sampler._GOLDEN, sampler._signed(2 * sampler._GOLDEN)])
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [x % 2**64 for x in sampler._mixed(state).tolist()] == expected


def test_a_typed_graph_has_every_relation_in_both_directions():
    graph = toy_graph()
    pairs = np.array([[0, 1, 1], [2, 2, 2]])
    typed = typed_graph(graph, interactions=pairs, times=np.array([3.0, 9.0, 1.0]))
    interaction = graph.schema.interaction
    into = typed.edges[interaction]
    assert listed(into, 2) == [1, 0, 1]
    assert into.times is not None
    assert into.times.tolist() == [1, 3, 9]
    assert listed(typed.edges[reverse_type(interaction)], 1) == [2, 2]
    for edge_type in set(graph.edges) - {interaction}:
        given = Counter(zip(*graph.edges[edge_type].index.tolist(), strict=True))
        forth, back = typed.edges[edge_type], typed.edges[reverse_type(edge_type)]
        assert given == Counter(
            (s, t) for t in range(len(forth.indptr) - 1) for s in listed(forth, t)
        )
        assert given == Counter(
            (s, t) for s in range(len(back.indptr) - 1) for t in listed(back, s)
        )
    assert reverse_type(reverse_type(interaction)) == interaction


# --- errors and devices ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "times", "text"),
    [
        ([1, 2, 1], None, "seeds of type 'user' repeat; give each row once"),
        ([1, 2], {"user": torch.zeros(1)}, "every seed needs one"),
        ([1, 2], {}, "every seed needs one"),
        ([1, 12], None, r"seeds of type 'user' must be rows 0 to 11; got 1 to 12"),
        ([-1, 2], None, r"must be rows 0 to 11; got -1 to 2"),
    ],
)
def test_seeds_that_cannot_be_are_refused(rows, times, text):
    with pytest.raises(ValueError, match=text):
        sample(random_graph(0), {"user": torch.tensor(rows)}, [2], seed=0, times=times)


@pytest.mark.parametrize(
    ("fanout", "exclude", "text"),
    [
        (-2, None, "a fan-out must be -1 .all. or more, got -2"),
        ({LIKED: -7}, None, "got -7"),
        ({("user", "hated", "item"): 2}, None, "no edges .'user', 'hated', 'item'., to draw or to"),
        (2, {("user", "hated", "item"): torch.zeros(2, 1)}, "no edges .'user', 'hated', 'item'."),
    ],
)
def test_fan_outs_and_exclusions_that_cannot_be_are_refused(fanout, exclude, text):
    with pytest.raises(ValueError, match=text):
        sample(random_graph(0), {"item": torch.tensor([0])}, [fanout], seed=0, exclude=exclude)


def test_numbers_of_any_width_are_taken():
    count = 70_000  # whose square is more than 32 bits hold
    last = np.array([count - 1])
    graph = TypedGraph(
        {"user": count, "item": count}, {LIKED: Incoming.from_edges(last, last, count)}
    )
    gone = torch.from_numpy(np.stack([last, last]).astype(np.int32))
    seeds = {"item": torch.from_numpy(last)}
    fanouts = [np.int64(3)]
    assert drawn_by(sample(graph, seeds, fanouts, seed=np.int64(5))) == [[count - 1]]
    out = sample(graph, seeds, fanouts, seed=np.int64(5), exclude={LIKED: gone})
    assert not out.blocks[0].edge_index[LIKED].numel()


def test_seeds_of_a_type_that_the_graph_lacks_are_refused():
    with pytest.raises(ValueError, match=r"no nodes of type 'actor'; it has \['genre', 'item'"):
        sample(random_graph(0), {"actor": torch.tensor([0])}, [2], seed=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("timed", [False, True])
def test_a_gpu_draws_what_the_cpu_does(timed):
    graph, rows = random_graph(8), torch.tensor([3, 3, 5] if timed else [3, 5])
    gone = torch.tensor([[1, 2], [3, 5]])
    outs = []
    for device in (torch.device("cpu"), torch.device("cuda")):
        times = {"user": torch.arange(len(rows)).double().to(device)} if timed else None
        seeds, exclude = {"user": rows.to(device)}, {KNOWS: gone.to(device)}
        there = graph.to(device)
        outs.append(sample(there, seeds, [2, 3, -1], seed=4, times=times, exclude=exclude))
    same(*outs)
