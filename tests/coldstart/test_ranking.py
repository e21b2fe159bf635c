import numpy as np
import pytest

from coldstart.ranking import Recommendations
from kg import Vocabulary
from kg.errors import DependencyError


@pytest.fixture
def found():
    return Recommendations(
        Vocabulary("User", [10, 20]),
        Vocabulary("Movie", ["a", "b", "c"]),
        np.array([1, 1, 0]),
        np.array([2, 0, 1]),
        np.array([1, 2, 1]),
        np.array([3.0, 2.0, 1.5], np.float32),
        {"confidence": np.array([0.5, 0.25, 0.0], np.float32)},
    )


def test_keys_are_the_users_own_and_keep_their_type(found):
    assert len(found) == 3
    assert found.to_pylist() == [
        {"user": 20, "item": "c", "rank": 1, "score": 3.0, "confidence": 0.5},
        {"user": 20, "item": "a", "rank": 2, "score": 2.0, "confidence": 0.25},
        {"user": 10, "item": "b", "rank": 1, "score": 1.5, "confidence": 0.0},
    ]


def test_table_and_frame_have_the_same_columns(found):
    names = ["user", "item", "rank", "score", "confidence"]
    assert found.to_table().column_names == names
    assert found.to_pandas().columns.tolist() == names
    assert found.to_pandas().score.tolist() == [3.0, 2.0, 1.5]


def test_printed_it_is_a_small_table(found):
    lines = str(found).splitlines()
    assert lines[0].split() == ["user", "rank", "item", "score"]
    assert lines[1].split() == ["20", "1", "c", "3.000"]
    assert len(lines) == 4


def test_without_pandas_the_error_says_how_to_get_it(found, monkeypatch):
    class Table:
        def to_pandas(self):
            raise ImportError("No module named 'pandas'")

    monkeypatch.setattr(Recommendations, "to_table", lambda self: Table())
    with pytest.raises(
        DependencyError, match=r"to_pandas needs pandas: pip install '\.\[pandas\]' in"
    ):
        found.to_pandas()
