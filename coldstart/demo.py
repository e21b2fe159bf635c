"""The whole line on MovieLens 100K, from a store to a new film and a new person."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coldstart.baselines import BASELINES
from coldstart.engine import ColdStartEngine
from coldstart.evaluation import engine_maker, evaluate
from coldstart.report import Report
from coldstart.similar import shared_entities, similar_items
from coldstart.splits import random_split
from kg.datasets import (
    FROM_DECADE,
    HAS_GENRE,
    MOVIELENS_SCHEMA,
    RATED,
    decade_of,
    load_movielens_100k,
)
from kg.delta import GraphDelta
from kg.files import write_atomically
from kg.graph import KnowledgeGraph
from kg.schema import Schema
from kg.stores import LadybugStore
from kg.vectors import NodeEmbeddings, Vocabulary

COMPARED = {
    "cold_items": ("engine", "text kNN", "ridge to ALS factors", "ridge to EASE columns"),
    "cold_users": ("engine", "popularity", "ridge on user attributes"),
}
"""Who is compared on what."""


@dataclass(frozen=True)
class Film:
    """A film that nobody has rated.

    Args:
        title: without the year.
        genres: names of genres; those that no film of the graph has contribute nothing.
        year: of release.
    """

    title: str
    genres: tuple[str, ...]
    year: int


def run_demo(
    folder: Path,
    film: Film,
    likes: Sequence[str],
    *,
    num_splits: int = 3,
    seed: int = 0,
    say: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Run it all; what was downloaded, encoded or stored in an earlier run is not done again.

    Args:
        folder: gets the store ``films.lbug``, ``model/``, ``comparison.json`` and
            ``comparison.png``.
        film: to find an audience for.
        likes: titles that a new person names.
        num_splits: random splits to compare on, at least 1.
        seed: of splits and training.
        say: called with what a person would like to read.

    Returns:
        What was found, as plain values.

    Raises:
        ValueError: a title in ``likes`` is not in the graph, or ``num_splits`` is below 1.
    """
    if num_splits < 1:
        raise ValueError(f"the comparison needs at least 1 split, got {num_splits}")
    start = time.perf_counter()
    say("1. MovieLens 100K into the embedded store, and back out by Cypher")
    graph = through_store(folder / "films.lbug", load_movielens_100k(progress=True))
    liked = [film_with_title(graph, title) for title in likes]
    say(f"   {graph}\n")

    say("2. Texts to vectors (all-MiniLM-L6-v2, cached)")
    from encoders.embed import embed_nodes

    texts = embed_nodes(graph, None, ["Movie"], progress=True)
    say(f"   {len(texts['Movie'])} films, {texts['Movie'].dim} dimensions\n")

    say(f"3. Cold films and cold people, {num_splits} random splits, against the baselines")
    report = compare(graph, texts, num_splits, seed, say)
    write_atomically(folder / "comparison.json", json.dumps(report.to_dict(), indent=1).encode())
    say("\n" + report.to_text() + "\n")
    from coldstart.plots import plot_comparison

    plot_comparison(report, folder / "comparison.png")
    say(f"   picture: {folder / 'comparison.png'}\n")

    say("4. An engine on all ratings, and a film that no one has rated")
    engine = ColdStartEngine.fit(graph, texts=texts, rng=seed, progress=True)
    engine, audience = with_new_film(engine, film, say)

    say("\n5. A new person, who names " + " and ".join(title_of(graph, key) for key in liked))
    engine, recommended = with_new_person(engine, liked, say)

    say("\n6. Embeddings back into the store, engine to disk")
    with LadybugStore(folder / "films.lbug") as store:
        store.write_embeddings(_known(engine.embeddings("Movie"), graph), progress=True)
        store.write_embeddings(_known(engine.embeddings("User"), graph), progress=True)
    engine.save(folder / "model")
    seconds = time.perf_counter() - start
    say(f"   {folder / 'films.lbug'} and {folder / 'model'}; {seconds:.0f} s in all")
    return {
        "comparison": report.to_dict(),
        "audience": audience,
        "recommended": recommended,
        "seconds": seconds,
    }


def through_store(path: Path, graph: KnowledgeGraph) -> KnowledgeGraph:
    """The graph as the store gives it back; writing twice changes nothing, so a run can resume."""
    with LadybugStore(path) as store:
        store.write(graph, progress=True)
        return store.read(_with_edges(graph), progress=True)


def _with_edges(graph: KnowledgeGraph) -> Schema:
    return MOVIELENS_SCHEMA.completed(graph.edge_types)


def compare(
    graph: KnowledgeGraph,
    texts: dict[str, NodeEmbeddings],
    num_splits: int,
    seed: int,
    say: Callable[[str], object],
) -> Report:
    """Engine and baselines on random splits with a tenth of films and people cold."""
    splits = [
        random_split(
            graph,
            cold_users=0.1,
            cold_items=0.1,
            rng=np.random.default_rng([seed, number]),
            name=f"split {number}",
        )
        for number in range(num_splits)
    ]
    makers = {**BASELINES, "engine": engine_maker(rng=seed)}

    def progress(sentence: str) -> None:
        say(f"   {sentence}")

    return evaluate(
        graph,
        makers,
        splits,
        texts=texts,
        segments=COMPARED,
        progress=progress,
    )


def with_new_film(
    engine: ColdStartEngine, film: Film, say: Callable[[str], object]
) -> tuple[ColdStartEngine, list[dict[str, Any]]]:
    """The engine with a film added, and who would like it."""
    graph = engine.graph
    key = next_key(graph.items)
    known = {str(genre) for genre in graph.vocabularies["Genre"]}
    genres = [g for g in film.genres if g in known]
    if unknown := sorted(set(film.genres) - known):
        say(f"   no film has the genre {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    decade = decade_of(film.year)
    edges: dict[Any, Any] = {}
    if genres:
        edges[HAS_GENRE] = {"source": [key] * len(genres), "target": genres}
    if decade in graph.vocabularies["Decade"]:
        edges[FROM_DECADE] = {"source": [key], "target": [decade]}
    nodes = {"Movie": {"id": [key], "title": [film.title], "year": [film.year]}}
    start = time.perf_counter()
    engine = engine.update(GraphDelta(nodes=nodes, edges=edges))
    milliseconds = 1000 * (time.perf_counter() - start)
    say(f"   {film.title!r} ({film.year}, {', '.join(genres) or 'no known genre'})")
    say(f"   added in {milliseconds:.0f} ms, without training. Who would like it:")
    audience = engine.audience([key], k=5).to_pylist()
    people = engine.graph.node_table("User").to_pylist()
    for row in audience:
        person = people[engine.graph.users.row(row["user"])]
        say(
            f"     user {row['user']:>4}, {person['age']:.0f}, {person['occupation']:14} "
            f"score {row['score']:.3f}, {row['user_interactions']} likes so far"
        )
    say("   Why: what the score of the first is made of, and the nearest films")
    say("     " + spoken_parts(audience[0]))
    for near, cosine in similar_items(engine, key, k=5):
        shared = ", ".join(str(entity) for _, entity in shared_entities(engine.graph, key, near))
        say(f"     {title_of(engine.graph, near):42} cosine {cosine:.2f}, shares {shared or '-'}")
    return engine, audience


def with_new_person(
    engine: ColdStartEngine, liked: Sequence[Any], say: Callable[[str], object]
) -> tuple[ColdStartEngine, list[dict[str, Any]]]:
    """The engine with a person added who likes some films, and what to recommend to them."""
    key = next_key(engine.graph.users)
    ratings = {
        "source": [key] * len(liked),
        "target": list(liked),
        "weight": [5.0] * len(liked),
        "time": [int(time.time())] * len(liked),
    }
    engine = engine.update(GraphDelta(nodes={"User": {"id": [key]}}, edges={RATED: ratings}))
    recommended = engine.recommend([key], k=10).to_pylist()
    for row in recommended:
        title = title_of(engine.graph, row["item"])
        say(f"     {row['rank']:>2}. {title:42} {row['score']:.3f}  {spoken_parts(row)}")
    return engine, recommended


def next_key(nodes: Vocabulary) -> int:
    """A whole number that is no key yet."""
    return 1 + max(key for key in nodes if isinstance(key, int))


def spoken_parts(row: dict[str, Any], most: int = 4) -> str:
    """The largest parts of a score, in words."""
    parts = {k.removeprefix("part_"): v for k, v in row.items() if k.startswith("part_")}
    largest = sorted(parts, key=lambda name: -abs(parts[name]))[:most]
    return ", ".join(f"{name} {parts[name]:+.2f}" for name in largest)


def title_of(graph: KnowledgeGraph, key: Any) -> str:
    """Title and year of a film."""
    table, row = graph.attributes["Movie"], graph.items.row(key)
    title, year = table["title"][row].as_py(), table["year"][row].as_py()
    return f"{title} ({year:.0f})" if year is not None else str(title)


def film_with_title(graph: KnowledgeGraph, title: str) -> Any:
    """Key of the film with this title, or whose title begins with it.

    Raises:
        ValueError: there is none, or several and none is exactly it.
    """
    titles = [str(t or "") for t in graph.attributes["Movie"]["title"].to_pylist()]
    wanted = title.casefold()
    exact = [row for row, t in enumerate(titles) if t.casefold() == wanted]
    rows = exact or [row for row, t in enumerate(titles) if t.casefold().startswith(wanted)]
    if not rows or (len(rows) > 1 and not exact):
        close = [titles[r] for r in rows][:5] or [t for t in titles if wanted[:5] in t.casefold()][
            :5
        ]
        found = "several films begin" if rows else "no film begins"
        raise ValueError(f"{found} with {title!r}; did you mean one of {close}?")
    return graph.items[rows[0]]


def _known(embeddings: NodeEmbeddings, graph: KnowledgeGraph) -> NodeEmbeddings:
    """The embeddings of nodes that are in the store."""
    nodes = graph.vocabularies[embeddings.node_type]
    return NodeEmbeddings(nodes, embeddings.matrix[embeddings.nodes.rows(nodes.keys)])
