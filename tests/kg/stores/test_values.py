from __future__ import annotations

import numpy as np

from kg.stores.values import digests


def test_equal_vectors_have_equal_digests_whatever_else_is_in_the_batch():
    matrix = np.random.default_rng(0).normal(size=(50, 384)).astype(np.float32)
    assert np.array_equal(digests(matrix)[7:9], digests(matrix[7:9]))


def test_the_smallest_change_a_swap_and_a_change_of_sign_change_the_digest():
    rng = np.random.default_rng(0)
    vector = rng.normal(size=384).astype(np.float32)
    changed = [np.nextafter(vector, np.float32(9)) * (np.arange(384) == n) for n in range(384)]
    others = [np.where(c != 0, c, vector) for c in changed]
    others += [np.roll(vector, 1), vector[::-1], -vector, np.abs(vector)]
    others += [np.concatenate([vector[1:2], vector[:1], vector[2:]])]
    assert not np.isin(digests(np.stack(others)), digests(vector[None])).any()


def test_a_digest_is_horners_rule_in_double_precision():
    assert digests(np.array([[1.0, 2.0]], np.float32))[0] == ((1.0 * 1.0009765625) + 2.0) * (
        1.0009765625
    )
