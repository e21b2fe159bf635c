from itertools import permutations

import numpy as np
import pytest
import torch

from gnn.atoms import _PrefixLengths, _PrefixMeans, shapley


def test_the_worth_of_links_is_the_mean_over_all_orders_of_what_they_add():
    rng = np.random.default_rng(0)
    links, own, squares = rng.normal(size=(4, 3)), rng.normal(size=3), rng.random(4) + 0.1

    def value(some):
        return (own + links[list(some)].sum(axis=0)) / np.sqrt(0.5 + squares[list(some)].sum())

    expected = np.zeros((4, 3))
    for order in permutations(range(4)):
        for at, link in enumerate(order):
            expected[link] += (value(order[: at + 1]) - value(order[:at])) / 24
    lengths = _PrefixLengths(squares, 0.5)
    found = shapley(torch.from_numpy(links), torch.from_numpy(own), lengths).numpy()
    np.testing.assert_allclose(found[1:], expected, atol=1e-12)
    np.testing.assert_allclose(found[0], own / np.sqrt(0.5), atol=1e-12)


@pytest.mark.parametrize("num_links", [3, 12, 300])
def test_the_worths_of_blended_texts_add_up_to_the_unit_vector(num_links):
    rng = np.random.default_rng(1)
    texts, own = rng.normal(size=(num_links, 8)), rng.normal(size=8)
    blend = own + 0.7 * texts.mean(axis=0)
    found = shapley(torch.from_numpy(texts), torch.from_numpy(own), _PrefixMeans(texts, own))
    np.testing.assert_allclose(found.sum(dim=0), blend / np.linalg.norm(blend), atol=1e-9)
