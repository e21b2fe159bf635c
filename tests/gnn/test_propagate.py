import numpy as np
import pytest
import torch

from gnn import propagate
from gnn.data import Adjacency, FarRelation, NodeInputs, node_inputs
from gnn.groups import OneHot, SparseRows
from gnn.propagate import fit_propagation, root_mean_square
from kg.graph import Edges
from kg.toy import toy_graph

CPU = torch.device("cpu")


def dense(raws):
    return [(raw.to_dense() if isinstance(raw, SparseRows) else raw).numpy() for raw in raws]


def links(pairs, num_nodes=4, num_targets=6):
    source, target = np.array(pairs, np.int64).reshape(-1, 2).T
    return Adjacency.from_pairs(source, target, num_nodes, num_targets)


def relations(**pairs):
    return NodeInputs(np.arange(4), relations={name: links(p) for name, p in pairs.items()})


def movies(num_cold_items=0):
    graph = toy_graph(num_cold_items=num_cold_items)
    text = np.random.default_rng(0).normal(size=(80, 8)).astype(np.float32)
    return node_inputs(graph, "Movie", text), np.unique(graph.positives()[1])


def test_every_feature_of_the_graph_has_a_group():
    inputs, warm = movies()
    assert fit_propagation(inputs, warm).names == (
        "constant",
        "text",
        "text kernel",
        "words",
        "pieces of words",
        "HAS_GENRE",
        "prominence",
        "SIMILAR_TO nodes",
        "SIMILAR_TO text",
        "SIMILAR_TO blend",
        "year",
    )


def test_warm_rows_divided_by_the_scale_have_unit_mean_square():
    inputs, warm = movies()
    fitted = fit_propagation(inputs, warm)
    for raw, scale in zip(dense(fitted.raw(inputs, warm, CPU)), fitted.scales, strict=True):
        assert ((raw / scale) ** 2).sum(axis=1).mean() == pytest.approx(1, rel=1e-5)


def test_features_of_a_node_do_not_depend_on_the_other_cold_nodes():
    graph = toy_graph(num_cold_items=12)
    text = np.random.default_rng(0).normal(size=(80, 8)).astype(np.float32)
    warm = np.unique(graph.positives()[1])
    every = node_inputs(graph, "Movie", text)
    fitted = fit_propagation(every, warm)
    alone = node_inputs(graph, "Movie", text, rows=np.array([70]))
    apart = fitted.raw(alone, np.array([0]), CPU)
    together = fitted.raw(every, np.arange(80), CPU)
    for one, all_ in zip(dense(apart), dense(together), strict=True):
        np.testing.assert_allclose(one[0], all_[70], atol=1e-6)


def test_groups_that_say_nothing_are_left_out():
    inputs = relations(NOBODY=[], ONCE=[(0, 0), (1, 1)], COLD=[(2, 2), (3, 2)])
    assert fit_propagation(inputs, np.array([0, 1])).names == ("constant",)


def test_small_relations_share_a_group(monkeypatch):
    monkeypatch.setattr(propagate, "MAX_RELATIONS", 1)
    both = [(0, 0), (1, 0)]
    inputs = relations(A=both, B=[*both, (0, 1), (1, 1)], C=both)
    fitted = fit_propagation(inputs, np.array([0, 1]))
    assert fitted.names == ("constant", "B", "small relations", "entities")
    shared = fitted.groups[2]
    assert isinstance(shared, OneHot)
    assert shared.relations == ("A", "C")


def test_cold_nodes_do_not_decide_which_relations_share_a_group(monkeypatch):
    monkeypatch.setattr(propagate, "MAX_RELATIONS", 1)
    both = [(0, 0), (1, 0)]
    inputs = relations(A=[*both, (2, 1), (2, 2), (3, 1)], B=[*both, (0, 3)], C=both)
    names = fit_propagation(inputs, np.array([0, 1])).names
    assert names == ("constant", "B", "small relations", "entities", "prominence")


def test_groups_of_one_name_are_told_apart():
    one = [(0, 0), (1, 0)]
    tags = [["x"], ["x"], [], []]
    inputs = NodeInputs(
        np.arange(4),
        relations={name: links(one) for name in ("genre", "interactions", "constant")},
        categorical={"genre": tags},
        numeric={"popularity": np.arange(4.0)},
    )
    names = fit_propagation(inputs, np.array([0, 1])).names
    assert names == (
        "constant",
        "genre",
        "interactions one_hot",
        "constant one_hot",
        "entities",
        "popularity gaussians",
        "genre category",
    )


def test_links_to_unknown_entities_are_counted():
    inputs = relations(A=[(0, 0), (1, 0), (2, 0), (2, 5)], B=[(0, 1), (1, 1), (2, 3)])
    fitted = fit_propagation(inputs, np.array([0, 1]))
    assert fitted.unknown_links(inputs, np.arange(4)).tolist() == [0, 0, 2, 0]


def test_links_of_a_relation_without_a_group_are_unknown():
    inputs = relations(A=[(0, 0), (1, 0)], ONCE=[(0, 0), (1, 1), (3, 0), (3, 4)])
    fitted = fit_propagation(inputs, np.array([0, 1]))
    assert fitted.names == ("constant", "A", "entities")
    assert fitted.unknown_links(inputs, np.arange(4)).tolist() == [1, 1, 0, 2]


def test_relations_that_share_a_group_are_reported(monkeypatch, caplog):
    monkeypatch.setattr(propagate, "MAX_RELATIONS", 1)
    both = [(0, 0), (1, 0)]
    with caplog.at_level("INFO", "gnn"):
        fit_propagation(relations(A=both, B=[*both, (0, 1), (1, 1)], C=both), np.array([0, 1]))
    assert "2 relations, those with the fewest links, share the group" in caplog.text


def far_inputs(**onward):
    """Two nodes with an entity each, and two with another; relations of the two entities."""
    entities = {"A": links([(0, 0), (1, 0), (2, 1), (3, 1)])}
    far = {
        f"A > {name}": FarRelation(
            "A", ("E", name, "X"), Edges(np.array(pairs).T.reshape(2, -1)), 0, "X", 100
        )
        for name, pairs in onward.items()
    }
    types = {"A": "E"} | dict.fromkeys(far, "X")
    return NodeInputs(np.arange(4), relations=entities, entity_types=types, far=far)


def test_what_entities_are_linked_to_is_a_group_unless_they_have_too_much_of_it():
    everything = [(entity, x) for entity in (0, 1) for x in range(propagate.MOST_ONWARD + 1)]
    inputs = far_inputs(GENRE=[(0, 5), (1, 5), (1, 6)], NOTHING=[], EVERYTHING=everything)
    fitted = fit_propagation(inputs, np.arange(4))
    assert [name for name in fitted.names if ">" in name] == ["A > GENRE"]
    raw = fitted.raw(inputs, np.arange(4), CPU)[fitted.names.index("A > GENRE")].to_dense()
    np.testing.assert_allclose((raw > 0).int(), [[1, 0], [1, 0], [1, 1], [1, 1]])
    assert fitted.known_from_afar(inputs).all()
    assert not fitted.known_from_afar(far_inputs(GENRE=[(0, 7)])).any()


def test_a_far_entity_is_the_same_however_it_is_reached(monkeypatch):
    monkeypatch.setattr(propagate, "MAX_FAR_RELATIONS", 1)
    inputs = far_inputs(B=[(0, 5)], C=[(0, 5), (0, 6), (1, 6)], D=[(1, 7)])
    fitted = fit_propagation(inputs, np.arange(4))
    assert fitted.names[:4] == ("constant", "A", "A > C", "far entities")
    raw = fitted.raw(inputs, np.arange(4), CPU)[3]
    assert raw.columns.tolist() == [0, 1, 0, 1, 1, 2, 1, 2]  # 5 and 6, 6 and 7
    values = raw.to_dense()[[0, 2]]
    worth = np.log([5 / 2, 5 / 4, 5 / 2])
    np.testing.assert_allclose(values[0], [*worth[:2], 0] / np.linalg.norm(worth[:2]), rtol=1e-6)
    np.testing.assert_allclose(values[1], [0, *worth[1:]] / np.linalg.norm(worth[1:]), rtol=1e-6)


def test_far_relations_with_the_fewest_links_come_first_where_all_are_too_many(monkeypatch, caplog):
    inputs = far_inputs(
        B=[(0, 5), (0, 6), (1, 5), (1, 6)],  # two links an entity, eight in all
        C=[(0, 5), (1, 5)],
        D=[(0, 1), (0, 2), (0, 3), (1, 3)],
    )
    monkeypatch.setattr(propagate, "MOST_FAR_LINKS", 3)
    with caplog.at_level("INFO", "gnn"):
        assert propagate.far_relations(inputs, np.arange(4)) == {"A > B": 8, "A > C": 4}
    assert "1 of 3 ways" in caplog.text
    monkeypatch.setattr(propagate, "MOST_FAR_LINKS", 5)
    assert list(propagate.far_relations(inputs, np.arange(4))) == ["A > B", "A > C", "A > D"]


def test_renumbering_leaves_the_features_of_those_who_stay():
    graph = toy_graph()
    text = np.random.default_rng(0).normal(size=(80, 8)).astype(np.float32)
    inputs = node_inputs(graph, "Movie", text)
    fitted = fit_propagation(inputs, np.arange(80))
    # Only unlinked nodes go, so that the features of the others are what they were.
    lonely = np.flatnonzero(np.arange(80) % 4 == 3)
    keep = np.setdiff1d(np.arange(80), lonely)
    genres = np.array([0, 1, 2, 3])
    smaller = NodeInputs(
        np.arange(len(keep)),
        text[keep],
        {"HAS_GENRE": inputs.relations["HAS_GENRE"].take(keep)},
        {"SIMILAR_TO": _within(inputs.same_type["SIMILAR_TO"], keep)},
        {"year": inputs.numeric["year"][keep]},
        peer_text=text[keep].__getitem__,
        entity_types=inputs.entity_types,
        wording=lambda rows: inputs.wording(keep[rows]),
    )
    renumbered = fitted.renumbered("Movie", {"Movie": keep, "Genre": genres}, inputs.entity_types)
    before = dense(fitted.raw(inputs, keep, CPU))
    after = dense(renumbered.raw(smaller, np.arange(len(keep)), CPU))
    for name, one, other in zip(fitted.names, before, after, strict=True):
        if name == "SIMILAR_TO nodes":
            place = fitted.names.index(name)
            one = one[:, (fitted.groups[place].column[keep])]
            other = other[:, renumbered.groups[place].column]
        np.testing.assert_allclose(one, other, atol=1e-6, err_msg=name)


def _within(adjacency, keep):
    place = np.full(len(adjacency), -1)
    place[keep] = np.arange(len(keep))
    source, target = place[adjacency.sources], place[adjacency.indices]
    stay = (source >= 0) & (target >= 0)
    return Adjacency.from_pairs(source[stay], target[stay], len(keep), len(keep))


def test_root_mean_square_is_the_same_sparse_or_dense():
    rows = links([(0, 0), (0, 1), (2, 1)])
    values = torch.tensor([3.0, 4.0, 1.0])
    parts = torch.from_numpy(rows.indptr), torch.from_numpy(rows.indices)
    raw = SparseRows(*parts, values, 6)
    assert root_mean_square(raw) == pytest.approx((26 / 4) ** 0.5)
    assert root_mean_square(raw.to_dense()) == pytest.approx((26 / 4) ** 0.5)
    assert root_mean_square(torch.empty(0, 3)) == 0


def test_what_entities_say_together_is_a_group_beside_every_relation():
    pairs = [(0, 0), (1, 0), (2, 1), (3, 1)]
    inputs = relations(CAST=pairs, GENRE=[(0, 2), (1, 2)])
    fitted = fit_propagation(inputs, np.arange(4))
    assert fitted.names == ("constant", "CAST", "GENRE", "entities", "prominence")
    together = dense(fitted.raw(inputs, np.arange(4), CPU))[3]
    np.testing.assert_allclose((together**2).sum(axis=1), 1, rtol=1e-6)
    assert (together > 0).sum(axis=1).tolist() == [2, 2, 1, 1]


def test_a_link_that_says_nothing_is_counted_once():
    inputs = relations(CAST=[(0, 0), (1, 0), (2, 5)], GENRE=[(0, 2), (1, 2), (2, 3), (2, 4)])
    fitted = fit_propagation(inputs, np.arange(4))
    assert fitted.unknown_links(inputs, np.arange(4)).tolist() == [0, 0, 3, 0]
