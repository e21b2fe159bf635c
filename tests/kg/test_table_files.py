from __future__ import annotations

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kg.errors import DanglingEdgeError, GraphError, MissingColumnError, SchemaError
from kg.files import read_graph
from kg.importing import import_tables
from kg.table_files import read_tables
from tests.contracts import same_graph

RATED, GENRE = ("User", "RATED", "Song"), ("Song", "HAS_GENRE", "Genre")

TOML = """
user = "User"
item = "Song"
interaction = ["User", "RATED", "Song"]
weight = "stars"
time = "date"
positive_weight = 4

[nodes.User]
file = "users.csv"
key = "user_id"
categorical = ["city"]

[nodes.Song]
file = "songs.csv"
key = "song_id"
text = ["title"]
numeric = ["year"]

[[edges]]
type = ["User", "RATED", "Song"]
file = "ratings.csv"
source = "user"
target = "song"
date_format = "%d.%m.%Y"

[[edges]]
type = ["Song", "HAS_GENRE", "Genre"]
file = "songs.csv"
source = "song_id"
target = "genres"
separator = "|"
"""

SONGS = 'song_id,title,genres,year\n1,1984,Rock | Folk,1992\n2,"Blue, Moon",Jazz,\n3,NA,,2001\n'
USERS = "user_id,city\n007,Oslo\n7,\n"
RATINGS = "user,song,stars,date\n007,1,5,18.06.2024\n7,2,3,01.07.2024\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "songs.csv").write_text(SONGS)
    (tmp_path / "users.csv").write_text(USERS)
    (tmp_path / "ratings.csv").write_text(RATINGS)
    (tmp_path / "songs.toml").write_text(TOML)
    return tmp_path


def edited(folder, **edits):
    """The TOML file with lines replaced, ``old=new`` by the old line's name."""
    text = TOML
    for old, new in edits.items():
        line = next(line for line in TOML.splitlines() if line.startswith(f"{old} = "))
        text = text.replace(line, new)
    (folder / "edited.toml").write_text(text)
    return folder / "edited.toml"


def test_files_become_a_graph(folder):
    graph = read_tables(folder / "songs.toml")
    assert list(graph.items) == [1, 2, 3]
    songs = graph.attributes["Song"]
    assert songs["title"].to_pylist() == ["1984", "Blue, Moon", "NA"]
    assert songs["year"].to_pylist() == [1992, None, 2001]
    assert np.asarray(graph.edges[RATED].weight).tolist() == [5, 3]
    assert (
        np.asarray(graph.edges[RATED].time)[0] == 1_718_668_800_000_000
    )  # 18 June 2024, in microseconds
    genres = graph.vocabularies["Genre"].keys.to_pylist()
    named = [(s + 1, genres[g]) for s, g in graph.edges[GENRE].index.T.tolist()]
    assert named == [(1, "Rock"), (1, "Folk"), (2, "Jazz")]


def test_keys_are_numbers_only_where_nothing_is_lost_by_it(folder):
    assert list(read_tables(folder / "songs.toml").users) == ["007", "7"]
    (folder / "users.csv").write_text("user_id,city\n6,Oslo\n7,\n")
    with pytest.raises(DanglingEdgeError, match="007"):
        read_tables(folder / "songs.toml")
    (folder / "ratings.csv").write_text(RATINGS.replace("007", "6"))
    assert list(read_tables(folder / "songs.toml").users) == [6, 7]


def test_an_empty_cell_has_no_value(folder):
    cities = read_tables(folder / "songs.toml").attributes["User"]["city"].to_pylist()
    assert cities == ["Oslo", None]


def test_parquet_lines_of_json_and_compressed_files_are_read_alike(folder):
    expected = read_tables(folder / "songs.toml")
    table = pa.table({"user_id": ["007", "7"], "city": ["Oslo", None]})
    pq.write_table(table, folder / "users.parquet")
    songs = (
        '{"song_id": 1, "title": "1984", "genres": ["Rock", "Folk"], "year": 1992}\n'
        '{"song_id": 2, "title": "Blue, Moon", "genres": ["Jazz"], "year": null}\n'
        '{"song_id": 3, "title": "NA", "genres": null, "year": 2001}\n'
    )
    (folder / "songs.jsonl").write_text(songs)
    (folder / "ratings.tsv.gz").write_bytes(gzip.compress(RATINGS.replace(",", "\t").encode()))
    text = TOML.replace("users.csv", "users.parquet").replace("songs.csv", "songs.jsonl")
    text = text.replace("ratings.csv", "ratings.tsv.gz").replace('separator = "|"', "")
    (folder / "others.toml").write_text(text)
    found = read_tables(folder / "others.toml")
    assert found.attributes["Song"]["genres"].to_pylist()[0] == ["Rock", "Folk"]
    assert list(found.users) == list(expected.users)
    for edge_type in (RATED, GENRE):
        assert found.edges[edge_type].index.tolist() == expected.edges[edge_type].index.tolist()
    times = [np.asarray(graph.edges[RATED].time).tolist() for graph in (found, expected)]
    assert times[0] == times[1]


def test_numbers_and_text_as_keys_of_one_type_are_text(folder):
    pq.write_table(pa.table({"user_id": [6, 7], "city": ["Oslo", "Rome"]}), folder / "u.parquet")
    (folder / "ratings.csv").write_text(RATINGS.replace("007", "6").replace("7,2,3", "x9,2,3"))
    path = edited(folder, file='file = "u.parquet"')
    with pytest.raises(DanglingEdgeError, match="x9"):
        read_tables(path)
    (folder / "ratings.csv").write_text(RATINGS.replace("007", "6"))
    assert list(read_tables(path).users) == [6, 7]


def test_a_pattern_names_several_files_and_columns_stand_for_a_head(folder):
    (folder / "parts").mkdir()
    (folder / "parts" / "2.txt").write_text("7;2;3;01.07.2024\n")
    (folder / "parts" / "1.txt").write_text("007;1;4.5;18.06.2024\n")
    more = 'delimiter = ";"\ncolumns = ["user", "song", "stars", "date"]'
    text = TOML.replace('file = "ratings.csv"', f'file = "parts/*.txt"\n{more}')
    (folder / "parts.toml").write_text(text)
    found = read_tables(folder / "parts.toml")
    assert np.asarray(found.edges[RATED].weight).tolist() == [4.5, 3]


def test_cells_that_stand_for_nothing_can_be_named(folder):
    (folder / "songs.csv").write_text(SONGS.replace("Jazz,\n", "Jazz,\\N\n"))
    path = edited(folder, numeric='numeric = ["year"]\nmissing = ["\\\\N"]')
    assert read_tables(path).attributes["Song"]["year"].to_pylist() == [1992, None, 2001]


def test_a_row_without_a_target_is_a_fault_unless_optional(folder):
    path = edited(folder, separator="")
    with pytest.raises(GraphError, match=r"1 of 3 rows have no 'genres', such as \[2\]; fill"):
        read_tables(path)
    path = edited(folder, separator="optional = true")
    assert len(read_tables(path).edges[GENRE]) == 2


def test_events_are_counted_over_all_files_of_the_interaction(folder):
    events = "user,song,date\n007,1,18.06.2024\n7,2,01.07.2024\n007,1,19.06.2024\n"
    for name in ("ratings.csv", "more.csv"):
        (folder / name).write_text(events)
    entry = TOML[TOML.index("[[edges]]") : TOML.rindex("[[edges]]")]
    more = entry.replace("ratings.csv", "more.csv")

    def counted(of_one, of_other):
        text = TOML.replace('weight = "stars"\n', "").replace("positive_weight = 4\n", "")
        both = entry.rstrip() + f"\n{of_one}\n\n" + more.rstrip() + f"\n{of_other}\n\n"
        (folder / "events.toml").write_text(text.replace(entry, both))
        return read_tables(folder / "events.toml").edges[RATED]

    edges = counted("count = true", "count = true")
    assert (edges.index.tolist(), edges.weight.tolist()) == ([[0, 1], [0, 1]], [4, 2])
    assert edges.time.tolist() == [1_718_755_200_000_000, 1_719_792_000_000_000]
    assert len(counted("", "")) == 6
    with pytest.raises(SchemaError, match=r"some entries of .* say count = true and some do not"):
        counted("count = true", "")


@pytest.mark.parametrize(
    ("edits", "error", "told"),
    [
        ({"file": 'file = "people.csv"'}, GraphError, r"\[nodes.User\]: there is no file people"),
        ({"file": 'file = "users.xlsx"'}, GraphError, r"no file users.xlsx"),
        ({"file": "file = 3"}, SchemaError, "file must be a text that is not empty, got 3"),
        ({"key": 'key = "id"'}, MissingColumnError, r"\['id'\], got .*'user_id'.*say key = "),
        ({"source": 'source = "person"'}, MissingColumnError, r"\[\[edges\]\] 1.*'person'.*say"),
        ({"separator": 'seperator = "|"'}, SchemaError, "unknown entry 'seperator'; known"),
        ({"separator": 'separator = ""'}, SchemaError, "separator must be a text"),
        ({"separator": "optional = 1"}, SchemaError, "optional must be true or false, got 1"),
        ({"separator": "count = true"}, SchemaError, r"\[\[edges\]\] 2: count is for interactions"),
        (
            {"date_format": 'date_format = "%d.%m.%Y"\ncount = true'},
            GraphError,
            "weights, from 3 to 5, which counts would",
        ),
        (
            {"date_format": 'date_format = "%Y"'},
            GraphError,
            "date .18.06.2024. is no time like .%Y",
        ),
        ({"weight": 'weight = "points"'}, MissingColumnError, "points"),
        ({"text": 'text = ["name"]'}, SchemaError, "name"),
        ({"user": "user = ["}, SchemaError, "edited.toml"),
        ({"interaction": 'interaction = ["User", "Song"]'}, SchemaError, "must be .source"),
        ({"date_format": 'encoding = "no"'}, GraphError, "cannot be read"),
        ({"numeric": "columns = [1]"}, SchemaError, "columns must be a list of texts, got"),
    ],
)
def test_what_is_wrong_is_named(folder, edits, error, told):
    with pytest.raises(error, match=told):
        read_tables(edited(folder, **edits))


def test_wrong_kinds_of_files_are_named(folder):
    (folder / "users.parquet").write_text("no")
    with pytest.raises(GraphError, match=r"users.parquet cannot be read"):
        read_tables(edited(folder, file='file = "users.parquet"'))
    (folder / "users.xlsx").write_text("no")
    with pytest.raises(SchemaError, match=r"users.xlsx ends in none of .csv"):
        read_tables(edited(folder, file='file = "users.xlsx"'))
    pq.write_table(pa.table({"user_id": [6]}), folder / "users.parquet")
    with pytest.raises(SchemaError, match="delimiter is for CSV files"):
        read_tables(edited(folder, file='file = "users.parquet"\ndelimiter = ";"'))
    (folder / "none.toml").write_text('user = "User"\nitem = "Song"\n')
    with pytest.raises(SchemaError, match=r"expected \[\[edges\]\]"):
        read_tables(folder / "none.toml")


@pytest.mark.parametrize(
    ("text", "error", "told"),
    [
        ("nodes = 3\n" + TOML.split("[nodes.User]")[0], SchemaError, r"expected \[nodes.TYPE\]"),
        (TOML.replace("users.csv", "folder.csv"), GraphError, "there is no file folder.csv"),
        (
            TOML.replace('key = "user_id"', 'key = "user_id"\ndelimiter = ";;"'),
            SchemaError,
            "one AS",
        ),
        (
            TOML.replace("users.csv", "latin.csv"),
            GraphError,
            "latin.csv cannot .*UTF8.* is no utf8: say e",
        ),
        (TOML.replace("users.csv", "false.csv.gz"), GraphError, "false.csv.gz cannot be read"),
        (TOML.replace("users.csv", "bad.jsonl"), GraphError, "cannot be read .line 2 is no ob"),
        (TOML.replace("users.csv", "users.*"), SchemaError, "names CSV files and others"),
        (
            TOML.replace('date_format = "%d.%m.%Y"', ""),
            GraphError,
            "no time as in ISO 8601 .*say da",
        ),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(folder, text, error, told):
    (folder / "folder.csv").mkdir()
    (folder / "latin.csv").write_bytes("user_id,city\n7,Köln\n".encode("latin-1"))
    (folder / "false.csv.gz").write_bytes(b"no")
    (folder / "bad.jsonl").write_text('{"user_id": 7}\n[1]\n')
    (folder / "users.jsonl").write_text('{"user_id": 7}\n')
    (folder / "odd.toml").write_text(text)
    with pytest.raises(error, match=told):
        read_tables(folder / "odd.toml")
    (folder / "odd.toml").write_bytes(b"user = '\xe9'")
    with pytest.raises(SchemaError, match=r"odd\.toml: 'utf-8' codec"):
        read_tables(folder / "odd.toml")


def test_times_are_read_in_every_kind_of_file_and_told_in_utc(folder):
    rows = (
        '{"user": "007", "song": 1, "stars": 5, "date": "2024-06-18T10:00:00.5+02:00"}\n'
        '{"user": "7", "song": 2, "stars": 3, "date": "2024-06-18T08:00:00Z"}\n'
    )
    (folder / "ratings.jsonl").write_text("\ufeff" + rows)
    text = TOML.replace("ratings.csv", "ratings.jsonl").replace('date_format = "%d.%m.%Y"', "")
    (folder / "times.toml").write_text(text, encoding="utf-8-sig")
    times = np.asarray(read_tables(folder / "times.toml").edges[RATED].time)
    assert times.tolist() == [1_718_697_600_500_000, 1_718_697_600_000_000]


def test_texts_that_look_like_dates_stay_texts_in_json(folder):
    songs = '{"song_id": "2024-01-01", "title": "2024-01-01", "genres": null, "year": 1}\n'
    (folder / "songs.jsonl").write_text(songs)
    (folder / "ratings.csv").write_text("user,song,stars,date\n7,2024-01-01,5,18.06.2024\n")
    text = TOML.replace("songs.csv", "songs.jsonl").replace('separator = "|"', "optional = true")
    (folder / "texts.toml").write_text(text)
    graph = read_tables(folder / "texts.toml")
    assert list(graph.items) == ["2024-01-01"]
    assert graph.attributes["Song"]["title"].to_pylist() == ["2024-01-01"]


def test_only_edges_that_say_so_have_the_weights_of_a_file_of_nodes(folder):
    (folder / "songs.csv").write_text("song_id,title,year,stars,label\n1,A,1,9,EMI\n2,B,2,8,EMI\n")
    text = TOML.replace("HAS_GENRE", "ON").replace("Genre", "Label")
    text = text.replace('"genres"', '"label"').replace('separator = "|"', "")
    (folder / "labels.toml").write_text(text)
    on = "Song", "ON", "Label"
    assert read_tables(folder / "labels.toml").edges[on].weight is None
    (folder / "labels.toml").write_text(text + 'weight = "stars"\n')
    assert np.asarray(read_tables(folder / "labels.toml").edges[on].weight).tolist() == [9, 8]


def test_text_keys_that_parquet_holds_as_a_dictionary_are_text(folder):
    users = pa.table({"user_id": pa.array(["8", "7"]).dictionary_encode(), "city": ["Oslo", "x"]})
    pq.write_table(users, folder / "users.parquet")
    (folder / "ratings.csv").write_text(RATINGS.replace("007", "8"))
    assert list(read_tables(edited(folder, file='file = "users.parquet"')).users) == ["8", "7"]


def test_a_like_among_parallel_edges_is_not_lost(folder, tmp_path):
    twice = "user,song,stars,date\n007,1,2,18.06.2024\n007,1,2,19.06.2024\n"
    (folder / "ratings.csv").write_text(twice)
    import_tables(folder / "songs.toml", tmp_path / "graph")
    (folder / "ratings.csv").write_text(twice.replace("1,2,18", "1,5,18"))
    assert import_tables(folder / "songs.toml", tmp_path / "graph").changes is None
    saved = read_graph(tmp_path / "graph")
    assert np.asarray(saved.edges[RATED].weight).tolist() == [5, 2]
    note = tmp_path / "graph" / "import.json"
    note.write_text("damaged")
    import_tables(folder / "songs.toml", tmp_path / "graph", full=True)
    assert (
        str(import_tables(folder / "songs.toml", tmp_path / "graph").changes) == "nothing changed"
    )


def test_a_folder_follows_its_files(folder, tmp_path):
    first = import_tables(folder / "songs.toml", tmp_path / "graph")
    assert first.changes is None
    before = (tmp_path / "graph").stat().st_ino
    again = import_tables(folder / "songs.toml", tmp_path / "graph")
    assert str(again.changes) == "nothing changed"
    assert (tmp_path / "graph").stat().st_ino == before
    (folder / "songs.csv").write_text(SONGS.replace("1984", "1985") + "4,New,Folk,2024\n")
    third = import_tables(folder / "songs.toml", tmp_path / "graph")
    assert str(third.changes).startswith("2 Song nodes new or changed")
    same_graph(read_graph(tmp_path / "graph"), read_tables(folder / "songs.toml"))
