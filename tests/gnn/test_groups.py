import numpy as np
import pytest
import torch

from gnn import groups
from gnn.data import Adjacency, NodeInputs
from gnn.groups import (
    Category,
    Constant,
    Gaussians,
    NeighbourOneHot,
    NeighbourText,
    OneHot,
    SparseRows,
    Text,
    TextKernel,
)

CPU = torch.device("cpu")
WARM = np.array([0, 1, 2])
ALL = np.arange(5)


def links(pairs, num_nodes=5, num_targets=4):
    source, target = np.array(pairs, np.int64).reshape(-1, 2).T
    return Adjacency.from_pairs(source, target, num_nodes, num_targets)


def peers(pairs):
    """Links within the type, both ways."""
    return links([*pairs, *[(b, a) for a, b in pairs]], 5, 5)


def unit(row):
    return np.asarray(row) / np.linalg.norm(row)


@pytest.fixture
def text():
    return np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def with_text(text, **more):
    return NodeInputs(ALL, text, peer_text=text.__getitem__, **more)


# Sparse rows


def test_sparse_rows_multiply_as_their_dense_form():
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(4, 6)) * (rng.random((4, 6)) < 0.4)
    dense[2] = 0
    source, column = np.nonzero(dense)
    indptr = torch.from_numpy(np.searchsorted(source, np.arange(5)))
    values = torch.from_numpy(dense[source, column].astype(np.float32))
    rows = SparseRows(indptr, torch.from_numpy(column), values, 6)
    right, left = (torch.from_numpy(rng.normal(size=(n, 3)).astype("f")) for n in (6, 4))
    np.testing.assert_allclose(rows.to_dense(), dense, atol=1e-6)
    np.testing.assert_allclose(rows.matmul(right), dense @ right.numpy(), atol=1e-5)
    np.testing.assert_allclose(rows.rmatmul(left), dense.T @ left.numpy(), atol=1e-5)
    np.testing.assert_allclose(rows.square_norms(), (dense**2).sum(axis=1), atol=1e-5)
    some = rows.to(torch.device("cpu")).take(torch.tensor([3, 2, 3, 0]))
    np.testing.assert_allclose(some.to_dense(), dense[[3, 2, 3, 0]], atol=1e-6)


def test_sparse_rows_without_entries_multiply_to_zero():
    none = torch.empty(0, dtype=torch.int64)
    rows = SparseRows(torch.zeros(3, dtype=torch.int64), none, torch.empty(0), 4)
    assert rows.matmul(torch.ones(4, 2)).tolist() == [[0, 0], [0, 0]]
    assert rows.rmatmul(torch.ones(2, 2)).shape == (4, 2)
    assert rows.to_dense().tolist() == [[0] * 4] * 2


# Text


def test_text_is_centred_on_the_warm_nodes_that_have_one_and_of_unit_length(text):
    text[1] = 0
    group = Text.fit("text", "text", with_text(text), WARM)
    raw = group.raw(with_text(text), ALL, CPU).numpy()
    mean = (text[0] + text[2]) / 2
    np.testing.assert_allclose(group.mean, mean, atol=1e-6)
    np.testing.assert_allclose(raw[3], unit(text[3] - mean), atol=1e-6)
    assert not raw[1].any()


def test_further_vectors_are_groups_of_their_own_and_missing_ones_an_error(text):
    inputs = NodeInputs(ALL, vectors={"image": text})
    group = Text.fit("image", "image", inputs, WARM)
    assert group.raw(inputs, ALL, CPU).shape == (5, 3)
    with pytest.raises(ValueError, match="no vectors 'image', which the engine was trained on"):
        group.raw(NodeInputs(ALL), ALL, CPU)


def test_random_fourier_features_approach_a_gaussian_kernel(text):
    inputs = with_text(text)
    group = Text.fit("text", "text", inputs, WARM)
    x = group.raw(inputs, ALL, CPU).double()
    phi = TextKernel.fit("kernel", group).raw(inputs, ALL, CPU).double()
    exact = torch.exp(-groups.KERNEL_VARIANCE * torch.cdist(x, x) ** 2 / 2)
    np.testing.assert_allclose(phi @ phi.T / groups.NUM_FREQUENCIES, exact, atol=0.15)


def test_the_kernel_of_a_node_without_text_is_zero_and_its_frequencies_are_fixed(text):
    text[3] = 0
    group = Text.fit("text", "text", with_text(text), WARM)
    kernel, again = TextKernel.fit("kernel", group), TextKernel.fit("kernel", group)
    assert not kernel.raw(with_text(text), ALL, CPU)[3].any()
    np.testing.assert_array_equal(kernel.frequencies, again.frequencies)


# Neighbours


def test_neighbours_count_only_where_they_were_warm(text):
    inputs = with_text(text, same_type={"LIKE": peers([(3, 0), (3, 1), (3, 4), (4, 3)])})
    group = Text.fit("text", "text", inputs, WARM)
    is_warm = np.isin(ALL, WARM)
    mean = NeighbourText("mean", "LIKE", group, is_warm, blend=False).raw(inputs, ALL, CPU).numpy()
    x = group.raw(inputs, ALL, CPU).numpy()
    np.testing.assert_allclose(mean[3], (x[0] + x[1]) / 2, atol=1e-6)
    assert not mean[4].any()
    blend = NeighbourText("blend", "LIKE", group, is_warm, blend=True).raw(inputs, ALL, CPU).numpy()
    np.testing.assert_allclose(blend[3], unit(x[3] + groups.NEIGHBOUR_SHARE * mean[3]), atol=1e-6)
    np.testing.assert_allclose(blend[4], x[4], atol=1e-6)


def test_nodes_later_than_training_are_nobodys_neighbours(text):
    inputs = with_text(text, same_type={"LIKE": peers([(0, 3), (0, 4)])})
    group = Text.fit("text", "text", inputs, WARM)
    # Only four nodes were there at training, the last of them cold.
    trained = NeighbourText("mean", "LIKE", group, np.array([True, True, True, False]), blend=False)
    raw = trained.raw(inputs, ALL, CPU)
    assert not raw[:3].any()
    np.testing.assert_allclose(raw[4], group.raw(inputs, ALL, CPU)[0])


def test_a_node_and_its_warm_neighbours_are_entities():
    inputs = NodeInputs(ALL, same_type={"LIKE": peers([(0, 1), (1, 2), (3, 0), (3, 4)])})
    group = NeighbourOneHot.fit("nodes", "LIKE", inputs, WARM)
    # Itself counted, node 1 occurs three times among warm nodes, 0 and 2 twice.
    assert group.column.tolist() == [0, 1, 2, -1, -1]
    np.testing.assert_allclose(group.idf, np.log(4 / np.array([2, 3, 2])), atol=1e-6)
    raw = group.raw(inputs, ALL, CPU).to_dense().numpy()
    np.testing.assert_allclose(raw[0], unit([group.idf[0], group.idf[1], 0]), atol=1e-6)
    np.testing.assert_allclose(raw[3], [1, 0, 0], atol=1e-6)
    assert not raw[4].any()


def test_history_of_peers_is_read_where_a_group_asks_for_it(text):
    seen = np.ones((5, 3), np.float32)
    inputs = with_text(text, same_type={"F": peers([(3, 0)])}, peer_history=seen.__getitem__)
    history = Text("history", "history", np.array([1, 1, 0], np.float32))
    group = NeighbourText("friends", "F", history, np.isin(ALL, WARM), blend=False)
    np.testing.assert_allclose(group.raw(inputs, ALL, CPU)[3], [0, 0, 1])
    with pytest.raises(ValueError, match="these nodes have no history"):
        group.raw(with_text(text, same_type=inputs.same_type), ALL, CPU)


# Entities


def test_entities_of_two_warm_nodes_have_a_column_and_rare_ones_weigh_more():
    inputs = NodeInputs(ALL, relations={"BY": links([(0, 0), (1, 0), (2, 0), (1, 1), (2, 1)])})
    group = OneHot.fit("BY", ("BY",), inputs, WARM)
    np.testing.assert_allclose(group.idf, np.log([4 / 3, 4 / 2]), atol=1e-6)
    raw = group.raw(inputs, ALL, CPU).to_dense().numpy()
    np.testing.assert_allclose(raw[1], unit(np.log([4 / 3, 4 / 2])), atol=1e-6)
    np.testing.assert_allclose(raw[0], [1, 0])
    assert not raw[3:].any()


def test_an_entity_of_one_warm_node_or_of_cold_ones_contributes_nothing_and_is_counted():
    pairs = [(0, 0), (1, 0), (0, 1), (3, 2), (4, 2), (3, 0)]
    inputs = NodeInputs(ALL, relations={"BY": links(pairs)})
    group = OneHot.fit("BY", ("BY",), inputs, WARM)
    assert len(group.idf) == 1
    assert group.raw(inputs, ALL, CPU).to_dense()[:, 0].tolist() == [1, 1, 0, 1, 0]
    assert group.unknown(inputs, ALL).tolist() == [1, 0, 0, 1, 1]


def test_entities_later_than_training_are_unknown():
    inputs = NodeInputs(ALL, relations={"BY": links([(0, 0), (1, 0)])})
    group = OneHot.fit("BY", ("BY",), inputs, WARM)
    later = NodeInputs(ALL, relations={"BY": links([(3, 0), (3, 5)], num_targets=6)})
    assert group.raw(later, ALL, CPU).to_dense()[3].tolist() == [1]
    assert group.unknown(later, ALL).tolist() == [0, 0, 0, 1, 0]


def test_relations_can_share_a_group_and_be_absent():
    relations = {"A": links([(0, 0), (1, 0)]), "B": links([(0, 3), (2, 3)])}
    inputs = NodeInputs(ALL, relations=relations)
    group = OneHot.fit("both", ("A", "B"), inputs, WARM)
    raw = group.raw(inputs, ALL, CPU).to_dense().numpy()
    np.testing.assert_allclose(raw[0], unit([1, 1]), atol=1e-6)
    np.testing.assert_allclose(raw[2], [0, 1])
    without = group.raw(NodeInputs(ALL, relations={"A": relations["A"]}), ALL, CPU)
    assert without.to_dense().tolist() == [[1, 0], [1, 0], [0, 0], [0, 0], [0, 0]]


# Numbers and categories


def test_a_number_is_bumps_at_the_quantiles_of_warm_nodes_and_its_rank():
    values = np.array([0.0, 10, 20, 1e6, 10])
    inputs = NodeInputs(ALL, numeric={"year": values})
    group = Gaussians.fit("year", inputs, WARM)
    assert group is not None
    np.testing.assert_allclose(group.centres, np.quantile([0, 10, 20], groups.QUANTILES), rtol=1e-5)
    raw = group.raw(inputs, ALL, CPU).numpy()
    expected = np.exp(-0.5 * ((10 - group.centres) / group.widths) ** 2)
    np.testing.assert_allclose(raw[1, :10], expected, atol=1e-6)
    np.testing.assert_array_equal(raw[1], raw[4])
    assert raw[:, :10].min() >= 0
    assert raw.max() <= 1
    np.testing.assert_allclose(raw[:, 10], [-1, 0, 1, 1, 0], atol=1e-6)


def test_a_number_further_out_than_all_is_the_last_of_them():
    inputs = NodeInputs(ALL, numeric={"year": np.array([0.0, 10, 20, 1e300, -7])})
    group = Gaussians.fit("year", inputs, WARM)
    assert group is not None
    raw = group.raw(inputs, ALL, CPU).numpy()
    np.testing.assert_array_equal(raw[3], group.bumps(np.array([group.centres[-1]]))[0])
    np.testing.assert_array_equal(raw[4], group.bumps(np.array([group.centres[0]]))[0])


@pytest.mark.parametrize("wrong", [199500.0, -2147483648.0, 253402214400.0])
def test_a_wrong_number_does_not_blur_the_others(wrong):
    years = 1950 + np.arange(200) / 4
    rows = np.arange(200)
    clean = Gaussians.fit("year", NodeInputs(rows, numeric={"year": years}), rows)
    years[13] = wrong
    blurred = Gaussians.fit("year", NodeInputs(rows, numeric={"year": years}), rows)
    assert clean is not None
    assert blurred is not None
    there = np.delete(rows, 13)
    assert np.abs(blurred.bumps(years[there]) - clean.bumps(years[there])).max() < 0.05


def test_half_of_the_numbers_may_be_the_same():
    prices = np.concatenate([np.zeros(30), np.arange(1.0, 21.0)])
    inputs, rows = NodeInputs(np.arange(50), numeric={"price": prices}), np.arange(50)
    group = Gaussians.fit("price", inputs, rows)
    assert group is not None
    raw = group.raw(inputs, rows, CPU).numpy()
    assert np.isfinite(raw).all()
    assert np.all(np.diff(raw[29:, 10]) >= 0)
    assert raw[0, 10] < raw[31, 10] < raw[45, 10]


def test_a_missing_number_is_the_median_and_a_number_nobody_has_is_no_group():
    values = np.array([1.0, 2, 9, np.nan, 2])
    group = Gaussians.fit("year", NodeInputs(ALL, numeric={"year": values}), WARM)
    assert group is not None
    raw = group.raw(NodeInputs(ALL, numeric={"year": values}), ALL, CPU).numpy()
    np.testing.assert_array_equal(raw[3], raw[4])
    nobody = NodeInputs(ALL, numeric={"year": np.full(5, np.nan)})
    assert Gaussians.fit("year", nobody, WARM) is None


def test_a_number_that_never_varies_is_finite():
    inputs = NodeInputs(ALL, numeric={"year": np.array([5.0, 5, 5, 7, np.nan])})
    group = Gaussians.fit("year", inputs, WARM)
    assert group is not None
    raw = group.raw(inputs, ALL, CPU).numpy()
    assert np.isfinite(raw).all()
    assert (raw[0, :10] == 1).all()
    np.testing.assert_allclose(raw[:, 10], 0, atol=1e-7)
    np.testing.assert_array_equal(raw[3], raw[0])


def test_categories_of_warm_nodes_have_columns_and_unseen_ones_contribute_nothing():
    inputs = NodeInputs(ALL, categorical={"tag": [["b"], ["a", "b", "b"], [], ["c"], ["a", "c"]]})
    group = Category.fit("tag", inputs, WARM)
    assert group is not None
    assert group.values == ("a", "b")
    raw = group.raw(inputs, np.array([1, 3, 4, 2]), CPU).to_dense()
    assert raw.tolist() == [[1, 1], [0, 0], [1, 0], [0, 0]]
    assert Category.fit("tag", inputs, np.array([2])) is None


def test_the_constant_is_one_for_everybody():
    assert Constant().raw(NodeInputs(ALL), ALL, CPU).tolist() == [[1]] * 5
