"""The two development sets of DESIGN 11 as graphs, read where they lie and never copied."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from kg import KnowledgeGraph, NodeEmbeddings, Schema

DATA = Path(os.environ.get("KG_COLDSTART_DATA", Path(__file__).parents[3] / "shared" / "data"))

RATED, PLAYED = ("User", "RATED", "Movie"), ("User", "PLAYED", "Artist")


def ml100k(*, thin: bool = False) -> KnowledgeGraph:
    """MovieLens 100K with cast, crew, plots and companies; thin: titles, years, genres, decades."""
    folder = DATA / "ml100k"
    items = pd.read_parquet(folder / "items.parquet")
    users = pd.read_parquet(folder / "users.parquet").rename(columns={"user_id": "id"})
    ratings = pd.read_parquet(folder / "interactions.parquet")
    triples = pd.read_parquet(folder / "triples.parquet")
    text = items.title + " (" + items.year.astype(str) + ")" if thin else items.text
    movies = pd.DataFrame(
        {"id": items.item_id, "text": text, "year": pd.to_numeric(items.year, errors="coerce")}
    )
    if thin:
        triples = triples[triples.relation.isin(["genre", "decade"])]
    edges = {RATED: _interactions(ratings, "rating", "timestamp")}
    for relation, frame in triples.groupby("relation"):
        heads = frame["head"].str.removeprefix("item:").astype(int)
        entity = frame["tail"].str.split(":").str[0].iloc[0]
        edges["Movie", str(relation), entity] = pd.DataFrame(
            {"source": heads, "target": frame["tail"]}
        )
    schema = Schema(
        user="User",
        item="Movie",
        interaction=RATED,
        text={"Movie": ("text",)},
        numeric={"Movie": ("year",), "User": ("age",)},
        categorical={"User": ("gender", "occupation")},
        positive_weight=4,
    )
    users = users[["id", "age", "gender", "occupation"]]
    return KnowledgeGraph.from_tables({"User": users, "Movie": movies}, edges, schema)


def lastfm() -> KnowledgeGraph:
    """Last.fm HetRec without tags: artists, DBpedia relations, friends."""
    folder = DATA / "lastfm_hetrec"
    items = pd.read_parquet(folder / "items.parquet")
    users = pd.read_parquet(folder / "users.parquet")[["user_id"]]
    plays = pd.read_parquet(folder / "interactions.parquet")
    triples = pd.read_parquet(folder / "triples.parquet").query("relation != 'tagged'")
    friends = pd.read_parquet(folder / "friends.parquet")
    # Artists that take part in a split; the others would only be cold nodes that nobody asks for.
    study = pd.read_parquet(folder / "splits" / "chatgpt_study.parquet")
    universe = pd.read_parquet(folder / "splits" / "universe_items.parquet")
    used = set(universe.item_id) | set(study.item_id)
    items = items[items.item_id.isin(used)]
    plays = plays[plays.item_id.isin(used)]
    artists = pd.DataFrame(
        {"id": items.item_id, "text": items.llm_text.where(items.llm_text.notna(), items.title)}
    )
    edges = {
        PLAYED: _interactions(plays, "weight", None),
        ("User", "FRIEND", "User"): friends.set_axis(["source", "target"], axis=1),
    }
    heads = triples["head"].str.removeprefix("item:").astype(int)
    triples = triples.assign(source=heads)[heads.isin(used)]
    to_item = triples["tail"].str.startswith("item:")
    for relation, frame in triples[~to_item].groupby("relation"):
        edges["Artist", str(relation), "Entity"] = frame[["source", "tail"]].set_axis(
            ["source", "target"], axis=1
        )
    for relation, frame in triples[to_item].groupby("relation"):
        target = frame["tail"].str.removeprefix("item:").astype(int)
        frame = frame.assign(target=target)[target.isin(used)]
        edges["Artist", str(relation), "Artist"] = frame[["source", "target"]]
    schema = Schema(user="User", item="Artist", interaction=PLAYED, text={"Artist": ("text",)})
    nodes = {"User": users.set_axis(["id"], axis=1), "Artist": artists}
    return KnowledgeGraph.from_tables(nodes, edges, schema)


def _interactions(frame: pd.DataFrame, weight: str, time: str | None) -> pd.DataFrame:
    names = {"user_id": "source", "item_id": "target", weight: "weight"}
    if time:
        names[time] = "time"
    return frame[list(names)].rename(columns=names)


def texts_of(graph: KnowledgeGraph) -> dict[str, NodeEmbeddings]:
    """The default encoder's vectors of users and items, cached on disk."""
    from encoders.embed import embed_nodes

    types = [t for t in (graph.schema.user, graph.schema.item) if graph.schema.text.get(t)]
    return embed_nodes(graph, None, types, progress=True)
