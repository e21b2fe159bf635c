"""A small synthetic graph with planted tastes, for tests, examples and notebooks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from kg.graph import KnowledgeGraph
from kg.schema import EdgeType, Schema

GENRES = {
    "space": ("orbit", "starship", "galaxy", "alien", "planet", "rocket"),
    "romance": ("wedding", "letter", "kiss", "summer", "heart", "dance"),
    "crime": ("detective", "murder", "heist", "alibi", "gangster", "evidence"),
    "nature": ("forest", "river", "wolf", "mountain", "glacier", "meadow"),
}
"""The four tastes and the words that films of each are described with."""

CITIES = ("Harbour", "Hilltop", "Oldtown", "Riverside")
_RATED: EdgeType = ("User", "RATED", "Movie")

TOY_SCHEMA = Schema(
    user="User",
    item="Movie",
    interaction=_RATED,
    text={"Movie": ("title", "plot"), "Genre": ("name",), "City": ("name",)},
    numeric={"Movie": ("year",), "User": ("age",)},
    categorical={"User": ("gender",)},
    positive_weight=4,
)
"""Roles of the graph that :func:`toy_graph` makes."""


def toy_graph(
    rng: int | np.random.Generator = 0,
    *,
    num_users: int = 60,
    num_items: int = 80,
    ratings_per_user: int = 15,
    num_cold_users: int = 0,
    num_cold_items: int = 0,
) -> KnowledgeGraph:
    """A graph whose right answers are known: every user likes one genre and finds the rest dull.

    User ``u<n>`` and item ``m<n>`` belong to taste ``n % 4``, in the order of :data:`GENRES`. A
    user rates films of the own taste 4 or 5 and others 1 to 3, and picks the own taste four times
    out of five. Text, genre, year and the neighbours of a film tell its taste; age, city and the
    friends of a person tell theirs. Every path of a feature is there: text, numbers (some missing),
    a category, relations to entities, item-item and user-user edges, weights and times.

    Args:
        rng: seed or generator.
        num_users: people, at least 4.
        num_items: films, at least 4.
        ratings_per_user: films that each person who is not cold rates; capped at those there are.
        num_cold_users: how many of the last people rate nothing.
        num_cold_items: how many of the last films are rated by nobody.

    Raises:
        ValueError: there are fewer than four of a side, or nobody is left who is not cold.
    """
    warm_users, warm_items = num_users - num_cold_users, num_items - num_cold_items
    if min(num_users, num_items) < 4 or min(warm_users, warm_items) < 1:
        raise ValueError(
            f"expected at least 4 users and items and 1 of each that is not cold, got {num_users} "
            f"users ({num_cold_users} cold) and {num_items} items ({num_cold_items} cold)"
        )
    rng = np.random.default_rng(rng)
    user_taste, item_taste = np.arange(num_users) % 4, np.arange(num_items) % 4
    user_ids = [f"u{n}" for n in range(num_users)]
    item_ids = [f"m{n}" for n in range(num_items)]
    names = list(GENRES)
    nodes = {
        "User": _people(rng, user_ids, user_taste),
        "Movie": _films(rng, item_ids, item_taste),
        "Genre": {"id": names, "name": [f"{name} films" for name in names]},
        "City": {"id": list(CITIES), "name": list(CITIES)},
    }
    second = (item_taste + 1) % 4
    genre_of = [(i, names[t]) for i, t in zip(item_ids, item_taste, strict=True)]
    genre_of += [(i, names[t]) for i, t in list(zip(item_ids, second, strict=True))[::5]]
    city_taste = np.where(rng.random(num_users) < 0.8, user_taste, rng.integers(0, 4, num_users))
    edges = {
        _RATED: _ratings(rng, user_taste, item_taste[:warm_items], warm_users, ratings_per_user),
        ("Movie", "HAS_GENRE", "Genre"): _pairs(genre_of),
        ("Movie", "SIMILAR_TO", "Movie"): _pairs(_likes(rng, item_ids, item_taste, 3)),
        ("User", "LIVES_IN", "City"): _pairs(
            [(u, CITIES[t]) for u, t in zip(user_ids, city_taste, strict=True)]
        ),
        ("User", "FRIEND_OF", "User"): _pairs(_likes(rng, user_ids, user_taste, 2)),
    }
    return KnowledgeGraph.from_tables(nodes, edges, TOY_SCHEMA)


def _people(rng: np.random.Generator, ids: list[str], taste: np.ndarray) -> pa.Table:
    age = 20 + 12 * taste + rng.integers(0, 10, len(ids))
    gender = np.array(["f", "m", "x"])[rng.integers(0, 3, len(ids))]
    return pa.table({"id": ids, "age": age, "gender": gender})


def _films(rng: np.random.Generator, ids: list[str], taste: np.ndarray) -> pa.Table:
    titles, plots = [], []
    for one in taste:
        own, other = list(GENRES.values())[one], list(GENRES.values())[rng.integers(0, 4)]
        words = [*rng.permutation(own)[:4], other[rng.integers(0, len(other))]]
        titles.append(f"The {words[0]} and the {words[1]}")
        plots.append(f"A story of {words[2]}, {words[3]} and {words[4]}.")
    year = 1960 + 10 * taste + rng.integers(0, 9, len(ids))
    years = [None if row % 20 == 19 else int(y) for row, y in enumerate(year)]
    return pa.table({"id": ids, "title": titles, "plot": plots, "year": pa.array(years)})


def _ratings(
    rng: np.random.Generator,
    user_taste: np.ndarray,
    item_taste: np.ndarray,
    num_raters: int,
    per_user: int,
) -> pa.Table:
    users, items, weights = [], [], []
    for user in range(num_raters):
        own = item_taste == user_taste[user]
        chance = np.where(own, 4.0 / max(own.sum(), 1), 1.0 / max((~own).sum(), 1))
        size = min(per_user, len(item_taste))
        picked = rng.choice(len(item_taste), size, replace=False, p=chance / chance.sum())
        users += [f"u{user}"] * size
        items += [f"m{item}" for item in picked]
        weights.append(np.where(own[picked], rng.integers(4, 6, size), rng.integers(1, 4, size)))
    time = 1_000_000_000 + rng.permutation(len(users)) * 3600
    return pa.table(
        {"source": users, "target": items, "weight": np.concatenate(weights) * 1.0, "time": time}
    )


def _likes(
    rng: np.random.Generator, ids: list[str], taste: np.ndarray, each: int
) -> list[tuple[str, str]]:
    """Edges from every node to some others of its taste."""
    pairs = []
    for row, one in enumerate(taste):
        alike = np.flatnonzero((taste == one) & (np.arange(len(ids)) != row))
        pairs += [(ids[row], ids[other]) for other in rng.permutation(alike)[:each]]
    return pairs


def _pairs(pairs: Sequence[tuple[str, str]]) -> pa.Table:
    columns = zip(*pairs, strict=True) if pairs else ([], [])
    source, target = (pa.array(list(c), pa.string()) for c in columns)
    return pa.table({"source": source, "target": target})
