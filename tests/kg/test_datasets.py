import hashlib
import io
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile

import numpy as np
import pytest

from kg import datasets
from kg.datasets import (
    FROM_DECADE,
    HAS_GENRE,
    HAS_OCCUPATION,
    IN_AGE_GROUP,
    RATED,
    age_group_of,
    cache_folder,
    decade_of,
    load_movielens_100k,
    movielens_graph,
    read_grouplens_zip,
    read_recbole_folder,
    readable_title,
)
from kg.errors import DatasetError

U_DATA = "2\t1\t3\t881250949\n1\t4\t5\t891717742\n1\t1\t4\t878887116\n"
U_USER = "1|24|M|technician|85711\n2|17|F|student|T8H1N\n"
URL = "http://us.imdb.com/M/title-exact?x"
U_ITEM = (
    f"1|Toy Story (1995)|01-Jan-1995||{URL}|0|0|0|1|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0\n"
    "2|unknown||||1|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0\n"
    f"3|Cérémonie, La (1995) |01-Jan-1995||{URL}|0|0|0|0|0|0|0|0|1|0|0|0|0|0|0|0|0|0|0\n"
    f"4|Land Before, The (1995) (V)|01-Jan-1995||{URL}|0|0|0|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0|0\n"
)
INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + U_DATA
USER = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n" + (
    U_USER.replace("|", "\t")
)
ITEM = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "1\tToy Story\t1995\tAnimation Children's Comedy\n"
    "2\tunkonwn\tunkonwn\tunknown\n"
    "3\tCérémonie, La\t1995\tDrama\n"
    "4\tLand Before, The (1995)\tV\tAnimation Children's\n"
)


def grouplens_zip():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in (("u.data", U_DATA), ("u.item", U_ITEM), ("u.user", U_USER)):
            archive.writestr(f"ml-100k/{name}", text.encode("latin-1"))
    return content.getvalue()


def recbole_folder(folder):
    for name, text in (("inter", INTER), ("item", ITEM), ("user", USER)):
        (folder / f"ml-100k.{name}").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def small():
    return movielens_graph(read_grouplens_zip(grouplens_zip()))


@pytest.fixture
def no_sources(monkeypatch):
    """Neither GroupLens nor an installer answers."""

    def refuse(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setattr("shutil.which", lambda _: None)


# The two formats


def test_both_sources_give_the_same_tables(tmp_path):
    theirs = read_grouplens_zip(grouplens_zip())
    wheels = read_recbole_folder(recbole_folder(tmp_path))
    for name in ("ratings", "films", "people"):
        assert theirs[name].schema == wheels[name].schema
        assert theirs[name].to_pylist() == wheels[name].to_pylist()


def test_films_have_a_readable_title_and_their_year(small):
    assert small.node_table("Movie").to_pylist() == [
        {"id": 1, "title": "Toy Story", "year": 1995},
        {"id": 2, "title": None, "year": None},
        {"id": 3, "title": "La Cérémonie", "year": 1995},
        {"id": 4, "title": "The Land Before", "year": 1995},
    ]


def test_ratings_are_edges_with_weight_and_time_in_order_of_person_and_film(small):
    assert small.edge_table(RATED).to_pylist() == [
        {"source": 1, "target": 1, "weight": 4.0, "time": 878887116},
        {"source": 1, "target": 4, "weight": 5.0, "time": 891717742},
        {"source": 2, "target": 1, "weight": 3.0, "time": 881250949},
    ]
    assert small.positives().tolist() == [[0, 0], [0, 3]]


def test_attributes_become_entities_and_the_unknown_film_has_none(small):
    def pairs(edge_type):
        return [tuple(row.values()) for row in small.edge_table(edge_type).to_pylist()]

    assert pairs(HAS_GENRE)[:3] == [(1, "Animation"), (1, "Children's"), (1, "Comedy")]
    assert pairs(FROM_DECADE) == [(1, "1990s"), (3, "1990s"), (4, "1990s")]
    assert pairs(HAS_OCCUPATION) == [(1, "technician"), (2, "student")]
    assert pairs(IN_AGE_GROUP) == [(1, "18-24"), (2, "under 18")]
    assert 2 not in [film for film, _ in pairs(HAS_GENRE)]


def test_people_keep_their_attributes(small):
    assert small.node_table("User").to_pylist()[1] == {
        "id": 2,
        "age": 17,
        "gender": "F",
        "occupation": "student",
        "zip_code": "T8H1N",
    }


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("Matrix, The", "The Matrix"),
        ("Enfer, L'", "L'Enfer"),
        ("Hate (Haine, La)", "Hate (La Haine)"),
        ("Big Blue, The (Grand bleu, Le)", "The Big Blue (Le Grand bleu)"),
        ("Good, The Bad and The Ugly, The", "The Good, The Bad and The Ugly"),
        ("Paris, Texas", "Paris, Texas"),
        ("Sex, Lies, and Videotape", "Sex, Lies, and Videotape"),
        ("Mrs. Brown (Her Majesty, Mrs. Brown)", "Mrs. Brown (Her Majesty, Mrs. Brown)"),
    ],
)
def test_articles_come_first(written, read):
    assert readable_title(written) == read


def test_decades_and_age_groups_at_their_borders():
    assert [decade_of(y) for y in (1989, 1990, 2000)] == ["1980s", "1990s", "2000s"]
    ages = [17, 18, 24, 25, 34, 35, 44, 45, 49, 50, 55, 56, 99]
    assert list(dict.fromkeys(age_group_of(a) for a in ages)) == [
        "under 18", "18-24", "25-34", "35-44", "45-49", "50-55", "56+",
    ]  # fmt: skip


# Where the data comes from


def test_the_zip_of_grouplens_is_used_when_it_answers(tmp_path, monkeypatch):
    content = grouplens_zip()

    class Answer(io.BytesIO):
        headers = {"Content-Length": str(len(content))}  # noqa: RUF012

    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: Answer(content))
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    monkeypatch.setattr(datasets, "GROUPLENS_MD5", digest)
    assert load_movielens_100k(tmp_path).num_edges(RATED) == 3


def test_a_wrong_checksum_is_refused_and_the_next_source_is_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: FakeAnswer(b"<html>login"))
    monkeypatch.setattr(datasets, "_download_recbole", recbole_folder)
    digests = {p.name: digest_of(p) for p in recbole_folder(tmp_path).iterdir()}
    monkeypatch.setattr(datasets, "RECBOLE_SHA256", digests)
    assert load_movielens_100k(tmp_path / "cache").num_edges(RATED) == 3


def test_a_wheel_with_other_content_is_refused(tmp_path, monkeypatch, no_sources):
    monkeypatch.setattr(datasets, "_download_recbole", recbole_folder)
    with pytest.raises(DatasetError, match=r"ml-100k\.inter: expected the SHA-256 4edb"):
        load_movielens_100k(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_answers_the_error_has_the_reason_of_every_source(tmp_path, no_sources):
    with pytest.raises(DatasetError, match=r"no route to host.*no installer.*No such file"):
        load_movielens_100k(tmp_path)


def test_the_cache_is_read_without_a_source(tmp_path, monkeypatch, no_sources):
    monkeypatch.setattr(datasets, "_fetch", lambda _: read_grouplens_zip(grouplens_zip()))
    first = load_movielens_100k(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(datasets, "_fetch", None)
    again = load_movielens_100k(tmp_path)
    assert again.edge_table(RATED).equals(first.edge_table(RATED))
    assert again.node_table("Movie").equals(first.node_table("Movie"))


def test_a_damaged_cache_is_fetched_again(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "_fetch", lambda _: read_grouplens_zip(grouplens_zip()))
    load_movielens_100k(tmp_path)
    (file,) = tmp_path.rglob("films.parquet")
    file.write_bytes(b"cut off")
    assert load_movielens_100k(tmp_path).num_nodes("Movie") == 4
    assert file.read_bytes()[:4] == b"PAR1"


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(datasets, "_fetch", lambda _: read_grouplens_zip(grouplens_zip()))
    assert load_movielens_100k(tmp_path / "file").num_nodes("Movie") == 4
    assert "cannot be cached" in caplog.text


def test_the_environment_names_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("KG_COLDSTART_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("KG_COLDSTART_CACHE")
    assert cache_folder().name == "kg-coldstart"


def test_an_environment_without_pip_takes_uv(monkeypatch, tmp_path):
    commands = []

    def run(command, **_):
        commands.append(command)
        if "pip" in command[:3] and command[1] == "-m":
            raise subprocess.CalledProcessError(1, command, stderr="No module named pip")
        recbole_folder(tmp_path)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    datasets._download_recbole(tmp_path)
    assert [c[0] for c in commands] == [sys.executable, "/bin/uv"]
    assert "recbole==1.2.1" in commands[1]


# The real data


@pytest.fixture(scope="module")
def movielens():
    try:
        return load_movielens_100k()
    except DatasetError as error:
        pytest.skip(f"no source of MovieLens 100K can be reached: {error}")


def test_movielens_has_the_published_size(movielens):
    assert (movielens.num_nodes("User"), movielens.num_nodes("Movie")) == (943, 1682)
    assert movielens.num_edges(RATED) == 100_000
    assert movielens.num_nodes("Genre") == 18
    assert movielens.num_nodes("Occupation") == 21
    assert np.bincount(movielens.interactions.weight.astype(int)).tolist() == [
        0, 6110, 11370, 27145, 34174, 21201,
    ]  # fmt: skip
    assert movielens.positives().shape == (2, 55_375)


def test_known_films_of_movielens_are_right(movielens):
    films = {row["id"]: row for row in movielens.node_table("Movie").to_pylist()}
    assert films[1] == {"id": 1, "title": "Toy Story", "year": 1995}
    assert films[50] == {"id": 50, "title": "Star Wars", "year": 1977}
    assert films[543]["title"] == "Les Misérables"
    assert films[1412]["year"] == 1995
    assert [n for n, row in films.items() if row["title"] is None] == [267]
    assert [n for n, row in films.items() if row["year"] is None] == [267]
    genres = movielens.edge_table(HAS_GENRE).to_pandas()
    star_wars = sorted(genres[genres.source == 50].target)
    assert star_wars == ["Action", "Adventure", "Romance", "Sci-Fi", "War"]


def test_two_processes_that_fill_one_cache_both_get_the_data(movielens, tmp_path):
    program = (
        "import sys; from kg.datasets import load_movielens_100k as load;"
        "print(load(sys.argv[1]).num_edges())"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    assert [int(p.communicate()[0]) for p in running] == [movielens.num_edges()] * 2
    assert [p.name for p in tmp_path.iterdir()] == ["movielens-100k-v1"]


class FakeAnswer(io.BytesIO):
    headers = {}  # noqa: RUF012


def digest_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()
