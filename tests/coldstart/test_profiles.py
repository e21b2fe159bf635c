"""Profiles made from held-out interactions are refused; the same made from training are not."""

import numpy as np
import pytest
from scipy import sparse

from coldstart.leaks import LeakError, refuse_leaks
from coldstart.profiles import _beyond_chance, profile_leaks
from coldstart.splits import random_split
from kg import Edges, KnowledgeGraph, Schema
from kg.toy import GENRES, toy_graph
from tests.coldstart.toys import GENRE, RATED, with_property

NUM_USERS, NUM_ITEMS = 100, 120


def random_films() -> KnowledgeGraph:
    """People with a genre or two that they like most; the films they like are drawn by chance."""
    rng = np.random.default_rng(0)
    genre = rng.integers(0, 8, NUM_ITEMS)
    chance = rng.dirichlet(np.full(8, 0.5), NUM_USERS)[:, genre] + 0.05
    users, items = np.nonzero(rng.random(chance.shape) < 0.6 * chance)
    return KnowledgeGraph.from_tables(
        {
            "User": {"id": [f"u{n}" for n in range(NUM_USERS)]},
            "Movie": {"id": [f"m{n}" for n in range(NUM_ITEMS)]},
        },
        {
            RATED: {"source": [f"u{n}" for n in users], "target": [f"m{n}" for n in items]},
            GENRE: {
                "source": [f"m{n}" for n in range(NUM_ITEMS)],
                "target": [f"genre{g}" for g in genre],
            },
        },
        Schema("User", "Movie", RATED),
    )


GRAPH = random_films()
GENRE_KEYS = list(GRAPH.vocabularies["Genre"])
SPLIT = random_split(GRAPH, cold_users=0.1, cold_items=0.1, rng=np.random.default_rng(0), name="s")


def matrix(pairs):
    ones = np.ones(pairs.shape[1])
    return sparse.csr_matrix((ones, tuple(pairs)), shape=(len(GRAPH.users), len(GRAPH.items)))


def liked_genres(pairs):
    """How many films of each genre everybody likes, ``[num_users, 8]``."""
    films = GRAPH.edges[GENRE].index
    linked = sparse.csr_matrix((np.ones(films.shape[1]), tuple(films)), shape=(NUM_ITEMS, 8))
    return (matrix(pairs) @ linked).toarray()


def ranked(counts):
    """Columns of each row that has any, best first."""
    return [np.argsort(-row, kind="stable") if row.any() else [] for row in counts]


def favourite(pairs):
    best = [GENRE_KEYS[row[0]] if len(row) else None for row in ranked(liked_genres(pairs))]
    return with_property(GRAPH, "User", "favourite", best, "categorical")


def favourites(pairs):
    best = [[GENRE_KEYS[g] for g in row[:2]] for row in ranked(liked_genres(pairs))]
    return with_property(GRAPH, "User", "favourites", best, "categorical")


def biography(pairs):
    best = ranked(liked_genres(pairs))
    texts = [f"Enjoys {' and '.join(GENRE_KEYS[g] for g in row[:2])} films." for row in best]
    return with_property(GRAPH, "User", "biography", texts, "text")


def likes(pairs):
    best = ranked(liked_genres(pairs))
    edges = np.array([(user, genre) for user, row in enumerate(best) for genre in row[:2]]).T
    return GRAPH.with_edges(("User", "LIKES", "Genre"), Edges(edges))


def also_liked(pairs):
    together = (matrix(pairs).T @ matrix(pairs)).toarray()
    np.fill_diagonal(together, 0)
    best = np.argsort(-together, axis=1, kind="stable")[:, :5]
    edges = np.array([(i, j) for i, row in enumerate(best) for j in row if together[i, j]]).T
    return GRAPH.with_edges(("Movie", "ALSO_LIKED", "Movie"), Edges(edges))


def share_of_space(pairs):
    counts = liked_genres(pairs)
    shares = (counts[:, 0] / np.maximum(counts.sum(axis=1), 1)).tolist()
    return with_property(GRAPH, "User", "space", shares, "numeric")


def fans(pairs):
    number = np.log1p(np.bincount(pairs[1], minlength=NUM_ITEMS)).tolist()
    return with_property(GRAPH, "Movie", "fans", number, "numeric")


PLANTS = {
    favourite: "User.favourite",
    favourites: "User.favourites",
    biography: "User.biography",
    likes: "User-LIKES-Genre",
    also_liked: "Movie-ALSO_LIKED-Movie",
    share_of_space: "User.space",
    fans: "Movie.fans",
}


@pytest.mark.parametrize("plant", PLANTS)
def test_a_profile_made_from_held_out_interactions_is_refused_with_its_rows(plant):
    graph = plant(SPLIT.pairs)
    (leak,) = profile_leaks(graph, SPLIT)
    assert leak.where == PLANTS[plant]
    assert leak.number >= 10
    judged = GRAPH.users if "User" in leak.rows[0] else GRAPH.items
    held_out = np.unique(SPLIT.pairs[0 if judged is GRAPH.users else 1, SPLIT.pair_part != "train"])
    assert {next(iter(row.values())) for row in leak.rows} <= {judged[int(n)] for n in held_out}
    with pytest.raises(LeakError, match=f"{leak.where}: .*make it anew from training"):
        refuse_leaks(graph, SPLIT)


@pytest.mark.parametrize("plant", PLANTS)
def test_the_same_profile_made_from_training_interactions_is_no_leak(plant):
    assert not list(profile_leaks(plant(SPLIT.train), SPLIT))


def test_a_taste_that_people_declare_themselves_is_no_leak():
    graph = toy_graph(num_users=100)
    declared = [list(GENRES)[n % 4] for n in range(100)]
    graph = with_property(graph, "User", "taste", declared, "categorical")
    split = random_split(graph, cold_users=0.1, rng=np.random.default_rng(0))
    assert not list(profile_leaks(graph, split))


def test_a_few_nodes_prove_nothing():
    rng, shares = np.random.default_rng(0), {"cold_items": 0.0, "held_out": 0.0}
    few = random_split(GRAPH, cold_users=0.04, rng=rng, **shares)
    assert not list(profile_leaks(favourite(few.pairs), few))


def test_numbers_that_are_nearly_all_the_same_agree_by_chance():
    """Of 132 ways to deal ten 0, a 1 and a 2 to 12 nodes one agrees; of 12 numbers hardly any."""
    rows = np.arange(12)
    alike, distinct = np.repeat([0.0, 1.0, 2.0], [10, 1, 1]), np.arange(12.0)
    assert not _beyond_chance(alike, {"total": alike}, rows, 1.0)
    assert _beyond_chance(distinct, {"total": distinct, "same": np.ones(12)}, rows, 1.0)
