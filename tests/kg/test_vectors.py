from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest

from kg import NodeEmbeddings, Vocabulary
from kg.errors import AlignmentError, DuplicateKeyError, GraphError, UnknownNodeError


@pytest.fixture
def words():
    return Vocabulary("Movie", ["a", "b", "c"])


@pytest.fixture
def numbers():
    return Vocabulary("User", [5, 7, 9])


def test_keys_have_rows_and_rows_have_keys(words, numbers):
    assert [words.row(k) for k in words] == [0, 1, 2]
    assert numbers[1] == 7
    assert isinstance(numbers[1], int)
    assert (len(numbers), numbers.is_int, words.is_int) == (3, True, False)


def test_a_key_of_another_type_is_not_here(words, numbers):
    assert 5 in numbers
    assert "5" not in numbers
    assert True not in Vocabulary("User", [1])
    assert 1.0 not in Vocabulary("User", [1])
    with pytest.raises(UnknownNodeError, match=r"User '5' .* keys of User are int, this is str"):
        numbers.row("5")


def test_an_unknown_key_says_among_how_many(words):
    with pytest.raises(
        UnknownNodeError, match=r"Movie 'x' is not among the 3 known; check the key, or add"
    ):
        words.rows(["a", "x"])


@pytest.mark.parametrize("times", [1, 100], ids=["few", "many"])
@pytest.mark.parametrize("make", [list, np.array, pa.array, lambda k: pa.chunked_array([k])])
def test_many_keys_are_looked_up_in_any_container(numbers, make, times):
    rows = numbers.rows(make([9, 5, 8] * times), missing="mark")
    assert rows.dtype == np.int64
    assert rows.tolist() == [2, 0, -1] * times


@pytest.mark.parametrize("times", [1, 100], ids=["few", "many"])
def test_keys_of_another_type_are_all_missing(numbers, times):
    assert (numbers.rows(["5", "7"] * times, missing="mark") == -1).all()
    assert (numbers.rows(pa.array(["5", "7"] * times), missing="mark") == -1).all()


def test_one_key_is_not_a_list_of_keys(words, numbers):
    with pytest.raises(
        TypeError, match=r"expected a list of .* keys, got int 5; write \[5\] if it"
    ):
        numbers.rows(5)
    with pytest.raises(TypeError, match="expected a list of Movie keys, got the string 'abc'"):
        words.rows("abc")


def test_a_key_that_comes_twice_is_named_with_its_rows():
    with pytest.raises(DuplicateKeyError, match=r"example 'b' in rows \[1, 3\]; keep one row per"):
        Vocabulary("Movie", ["a", "b", "c", "b"])


def test_five_and_the_string_five_in_one_type_are_refused():
    with pytest.raises(GraphError, match="User: keys must be all integers or all strings"):
        Vocabulary("User", [5, "5"])


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (["a", None], r"Movie: 1 keys are null, in rows \[1\]; fill or drop"),
        ([1.5], "keys must be integers or strings, got double; convert"),
        ([float("nan"), 1], "keys must be integers or strings, got double"),
        ([True], "keys must be integers or strings, got bool"),
        ([b"a"], "keys must be integers or strings, got binary"),
        ([2**70], "a key does not fit into 64 bits"),
        (np.array([2**63 + 1], np.uint64), "a key does not fit into 64 bits"),
    ],
)
def test_a_key_that_is_none_is_refused(keys, text):
    with pytest.raises(GraphError, match=text):
        Vocabulary("Movie", keys)


def test_small_integers_and_categories_are_the_same_keys():
    assert Vocabulary("U", pa.array([1, 2], pa.int8())) == Vocabulary("U", [1, 2])
    assert Vocabulary("U", pa.array(["x", "y"]).dictionary_encode()) == Vocabulary("U", ["x", "y"])
    assert Vocabulary("U", [1]) != Vocabulary("V", [1])


def test_an_empty_vocabulary_takes_the_type_of_its_first_keys():
    empty = Vocabulary("User", [])
    assert 5 not in empty
    assert empty.extend([5]).row(5) == 0


def test_extending_keeps_rows_and_refuses_what_is_there(words):
    assert list(words.extend(["d"])) == ["a", "b", "c", "d"]
    assert words.extend([]) is words
    with pytest.raises(DuplicateKeyError, match="Movie: 'b' is there already"):
        words.extend(["d", "b"])
    with pytest.raises(AlignmentError, match=r"keys are str, the new ones are int \(for example 4"):
        words.extend([4])


def test_two_that_grow_out_of_one_do_not_see_each_other(words):
    left, right = words.extend(["d", "e"]), words.extend(["f"])
    assert "d" not in words
    assert "d" not in right
    assert "f" not in left
    assert (left.row("e"), right.row("f")) == (4, 3)
    assert list(right.extend(["d"])) == ["a", "b", "c", "f", "d"]
    assert left.extend(["f"]).row("f") == 5


def test_keys_of_a_vocabulary_that_is_gone_are_forgotten(words):
    for number in range(5):
        tried = words.extend([f"x{number}", f"y{number}"])
        index = tried._rows
        assert index is words._rows  # which was not made anew
        assert dict(index) == {"a": 0, "b": 1, "c": 2, f"x{number}": 3, f"y{number}": 4}
        del tried
    kept = words.extend(["d"])
    longer = kept.extend(["e"])
    other = words.extend(["e"])
    assert (kept.row("d"), longer.row("e"), other.row("e")) == (3, 4, 3)
    assert "d" not in other
    assert "e" not in kept
    del longer
    assert kept.extend(["f"]).row("f") == 4
    assert "e" not in kept


def test_threads_that_extend_one_vocabulary_do_not_mix_their_rows(words):
    with ThreadPoolExecutor(8) as threads:
        grown = list(threads.map(lambda n: words.extend([f"x{n}", f"y{n}"]), range(200)))
    assert [(g.row(f"x{n}"), g.row(f"y{n}")) for n, g in enumerate(grown)] == [(3, 4)] * 200
    assert not any(f"x{n}" in words for n in range(200))


def test_taking_rows_gives_their_keys_in_that_order(words):
    some = words.take(np.array([2, 0]))
    assert list(some) == ["c", "a"]
    assert some.row("a") == 1
    assert "b" not in some
    assert Vocabulary("U", [1]).take(np.array([], int)).is_int


def test_embeddings_have_one_float32_row_per_key(numbers):
    one = NodeEmbeddings(numbers, np.eye(3))
    assert one.matrix.dtype == np.float32
    assert (len(one), one.dim, one.node_type) == (3, 3, "User")
    assert one.of([9, 5]).tolist() == [[0, 0, 1], [1, 0, 0]]
    with pytest.raises(UnknownNodeError, match="User 6 is not among"):
        one.of([6])


@pytest.mark.parametrize("shape", [(2, 4), (3,), (3, 2, 2)])
def test_embeddings_of_another_shape_are_refused(numbers, shape):
    with pytest.raises(AlignmentError, match=r"User embeddings: expected \[3, dim\], got"):
        NodeEmbeddings(numbers, np.zeros(shape))


def test_embeddings_become_a_table_of_keys_and_vectors(words):
    table = NodeEmbeddings(words, np.arange(6.0).reshape(3, 2)).to_table("vector")
    assert table["id"].to_pylist() == ["a", "b", "c"]
    assert table["vector"].to_pylist() == [[0, 1], [2, 3], [4, 5]]


def test_a_table_of_keys_and_vectors_becomes_embeddings_again(words):
    one = NodeEmbeddings(words, np.arange(6.0).reshape(3, 2))
    again = NodeEmbeddings.from_table("Word", one.to_table())
    assert list(again.nodes) == ["a", "b", "c"]
    np.testing.assert_array_equal(again.matrix, one.matrix)
    doubles = pa.table({"id": [3, 4], "v": [[1.5, 2], [3, 4]]})
    assert NodeEmbeddings.from_table("User", doubles, "v").of([4]).tolist() == [[3, 4]]
    assert NodeEmbeddings.from_table("User", doubles.slice(1), "v").matrix.tolist() == [[3, 4]]


@pytest.mark.parametrize(
    ("column", "came"),
    [
        ([[1.0], [1.0, 2.0]], r"got lengths \[1, 2\]"),
        ([[1.0], None], "got nulls"),
        ([[1.0], [None]], "got nulls"),
        ([["a"], ["b"]], "got list<"),
        ([1.0, 2.0], "got double"),
    ],
)
def test_a_table_of_other_things_is_refused(column, came):
    told = f"expected lists of floats, all of one length, in 'embedding', {came}"
    with pytest.raises(AlignmentError, match=told):
        NodeEmbeddings.from_table("User", pa.table({"id": [1, 2], "embedding": column}))
