"""Made-up data of many kinds, with planted tastes: does one default serve them all?

    python -m benchmarks.quality.worlds                     # all of them, seeds 0 to 3
    python -m benchmarks.quality.worlds --only artist --seeds 0,1,2,3,4,5,6,7
    python -m benchmarks.quality.worlds --baselines         # beside the closed forms

Everybody has a taste in a few dimensions, every item a place in them and a popularity, and a user
picks what score and chance put first. The worlds differ in what is told of items and users, how
truly, and how many interactions there are. Real sets say whether something helps; these say where
it would do harm. No choice should be made on one of them alone.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.quality.run import FAMILIES
from coldstart.baselines import BASELINES
from coldstart.evaluation import OWN_LIFT, evaluate, makers_named
from coldstart.judging import K
from coldstart.report import Report, Row
from coldstart.splits import random_split
from kg import KnowledgeGraph, NodeEmbeddings, Schema, Vocabulary

log = logging.getLogger(__name__)

Texts = dict[str, NodeEmbeddings]
PICKED = ("User", "PICKED", "Item")
ITEMS = ("cold_items", "warm", "mixed")
USERS = ("cold_users", "warm")
TEXT_DIM = 64


@dataclass
class World:
    """Planted tastes, and what is told of them; arrays by row.

    Args:
        seed: of everything.
        users: how many.
        items: how many.
        mean: about so many items a user picks.
        sharp: how much tastes count beside chance.
        popular: how much popularity counts.
        dim: of tastes.
    """

    seed: int
    users: int = 600
    items: int = 500
    mean: float = 12
    sharp: float = 2.0
    popular: float = 1.0
    dim: int = 8
    properties: dict[str, dict[str, Any]] = field(default_factory=dict)
    roles: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)
    edges: dict[Any, Any] = field(default_factory=dict)
    texts: Texts = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.tastes = self.rng.normal(size=(self.users, self.dim))
        self.places = self.rng.normal(size=(self.items, self.dim))
        self.popularity = self.popular * self.rng.normal(size=self.items)
        self.counts = self.rng.lognormal(np.log(self.mean), 0.8, self.users).astype(int)

    def key(self, node_type: str, rows: np.ndarray | int) -> list[str]:
        """Keys of some rows, or of so many first ones."""
        rows = np.arange(rows) if isinstance(rows, int) else rows
        return [f"{node_type.lower()}{row}" for row in rows.tolist()]

    def link(self, relation: str, target: str, source: np.ndarray, there: np.ndarray, own="Item"):
        """Add edges from users or items."""
        ends = {"source": self.key(own, source), "target": self.key(target, there)}
        self.edges[(own, relation, target)] = ends

    def tell(self, node_type: str, role: str, **columns: Any) -> None:
        """Add numbers or categories."""
        self.properties.setdefault(node_type, {}).update(columns)
        known = self.roles.setdefault(role, {}).get(node_type, ())
        self.roles[role][node_type] = (*known, *columns)

    def groups(self, places: np.ndarray, number: int, wrong: float = 0.1) -> np.ndarray:
        """The nearest of some random centres, and for a share another one, int64 ``[n]``."""
        centres = places[self.rng.choice(len(places), number, replace=False)]
        found = ((places[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
        other = self.rng.random(len(found)) < wrong
        return np.where(other, self.rng.integers(0, number, len(found)), found)

    def write(self, noise: float) -> None:
        """Give items text vectors: their places, turned, with so much noise."""
        turn = self.rng.normal(size=(self.dim, TEXT_DIM)) / self.dim**0.5
        matrix = self.places @ turn + noise * self.rng.normal(size=(self.items, TEXT_DIM))
        matrix += 2 * self.rng.normal(size=TEXT_DIM)
        nodes = Vocabulary("Item", pa.array(self.key("Item", self.items)))
        self.texts["Item"] = NodeEmbeddings(nodes, matrix.astype(np.float32))

    def graph(self) -> KnowledgeGraph:
        """Everybody picks what score and chance put first."""
        score = self.sharp * (self.tastes @ self.places.T) / self.dim**0.5 + self.popularity
        order = np.argsort(-(score + self.rng.gumbel(size=score.shape)), axis=1)
        counts = self.counts.clip(1, self.items // 3)
        user = np.repeat(np.arange(self.users), counts)
        item = np.concatenate([row[:n] for row, n in zip(order, counts, strict=True)])
        picked = {"source": self.key("User", user), "target": self.key("Item", item)}
        tables = {
            t: {"id": self.key(t, n), **self.properties.get(t, {})}
            for t, n in (("User", self.users), ("Item", self.items))
        }
        schema = Schema("User", "Item", PICKED, **self.roles)
        return KnowledgeGraph.from_tables(tables, {PICKED: picked, **self.edges}, schema)


def texts(noise: float) -> Callable[[int], World]:
    def make(seed: int) -> World:
        world = World(seed, mean=10)
        world.write(noise)
        return world

    return make


def weak_tastes(mean: float) -> Callable[[int], World]:
    """Chance counts for more than taste, of which texts and a category tell much."""

    def make(seed: int) -> World:
        world = World(seed, items=400, mean=mean, sharp=1.0)
        world.tell("Item", "categorical", kind=named(world.groups(world.places, 25)))
        world.write(1.0)
        return world

    return make


def category(number: int, wrong: float = 0.1) -> Callable[[int], World]:
    def make(seed: int) -> World:
        world = World(seed)
        world.tell("Item", "categorical", kind=named(world.groups(world.places, number, wrong)))
        return world

    return make


def artist(genres: bool) -> Callable[[int], World]:
    """Two items an artist; genres of the artists, which are those of the items, or none."""

    def make(seed: int) -> World:
        world = World(seed)
        genre = world.groups(world.places, 30)
        by = np.empty(world.items, int)
        by[np.lexsort([world.rng.random(world.items), genre])] = np.arange(world.items) // 2
        world.link("BY", "Artist", np.arange(world.items), by)
        if genres:
            artists = np.arange(by.max() + 1)
            most = [np.bincount(genre[by == one], minlength=30).argmax() for one in artists]
            world.link("PLAYS", "Genre", artists, np.array(most), own="Artist")
        return world

    return make


def numbers(wrong: bool = False, tail: float = 1.0) -> Callable[[int], World]:
    """A year, a price with a heavy tail and a date; perhaps one wrong one of each."""

    def make(seed: int) -> World:
        world = World(seed, dim=4)
        x = world.places[:, :3] + 0.2 * world.rng.normal(size=(world.items, 3))
        year, price, until = np.round(1990 + 12 * x[:, 0]), np.exp(tail * x[:, 1]), x[:, 2]
        until = 1.6e9 + 1e7 * until  # seconds
        if wrong:
            for column, value in ((year, 199_500), (price, 1e6), (until, 253_402_214_400)):
                column[world.rng.integers(world.items)] = value
        world.tell("Item", "numeric", year=year, price=price, until=until)
        return world

    return make


def few(kind: bool) -> Callable[[int], World]:
    """Most people picked one to three things, a few many; much popularity."""

    def make(seed: int) -> World:
        world = World(seed, users=1500, sharp=1.5, popular=2.5)
        world.counts = world.rng.choice([1, 2, 3], world.users, p=[0.5, 0.3, 0.2])
        often = world.rng.random(world.users) < 0.05
        world.counts[often] = world.rng.integers(8, 40, often.sum())
        if kind:
            world.tell("Item", "categorical", kind=named(world.groups(world.places, 25)))
        return world

    return make


def many_items(seed: int) -> World:
    """More items than interactions, with texts and a category."""
    world = World(seed, users=300, items=2000, mean=4, popular=1.5)
    world.tell("Item", "categorical", kind=named(world.groups(world.places, 40)))
    world.write(1.0)
    return world


def friends(number: int, mean: float = 12) -> Callable[[int], World]:
    """The nearest people are friends, and one who is anybody."""

    def make(seed: int) -> World:
        world = World(seed, mean=mean)
        apart = ((world.tastes[:, None] - world.tastes) ** 2).sum(axis=2)
        np.fill_diagonal(apart, np.inf)
        near = np.argsort(apart, axis=1)[:, :number]
        near = np.column_stack([near, world.rng.integers(0, world.users, world.users)])
        source = np.repeat(np.arange(world.users), number + 1)
        world.link("FRIEND_OF", "User", source, near.ravel(), own="User")
        return world

    return make


def pages(seed: int) -> World:
    """People follow six pages, each of which has a place among tastes."""
    world = World(seed, users=800, items=400)
    score = 2 * world.tastes @ world.rng.normal(size=(300, world.dim)).T / world.dim**0.5
    chosen = np.argsort(-(score + world.rng.gumbel(size=score.shape)), axis=1)[:, :6]
    world.link("FOLLOWS", "Page", np.repeat(np.arange(800), 6), chosen.ravel(), own="User")
    return world


def rich_users(seed: int) -> World:
    """Two numbers and two categories of people, nothing of items."""
    world = World(seed, users=800, items=300)
    t = world.tastes
    world.tell("User", "numeric", age=40 + 10 * t[:, 0], income=np.exp(t[:, 1]))
    city, job = world.groups(t[:, 2:5], 20), world.groups(t[:, 4:], 30)
    world.tell("User", "categorical", city=named(city), job=named(job))
    return world


def entities(relations: int, turned: bool = False) -> Callable[[int], World]:
    """Six entities an item, and six others each of these, by some relations of falling size.

    What is two links away tells most. An entity means the same to whatever it is linked to, or each
    relation turns that its own way.
    """

    def make(seed: int) -> World:
        world = World(seed, users=1200, items=1000, mean=16, dim=16)
        rng, number = world.rng, 3000
        share = 1 / np.arange(1, relations + 1)
        weight = rng.lognormal(0, 0.8, relations)
        turns = np.stack([np.linalg.qr(rng.normal(size=(16, 16)))[0] for _ in range(relations)])

        def linked(own: str, count: int, places: np.ndarray, told: float, skew: float):
            """Link nodes to entities; their places, so far told by the entities'."""
            rank = 1 / np.arange(1, number + 1) ** skew
            source = np.repeat(np.arange(count), 6)
            there = rng.permutation(number)[rng.choice(number, 6 * count, p=rank / rank.sum())]
            by = rng.choice(relations, 6 * count, p=share / share.sum())
            for relation in range(relations):
                pairs = np.unique([source[by == relation], there[by == relation]], axis=1)
                if pairs.shape[1]:
                    world.link(f"{own}{relation}", "Entity", *pairs, own=own)
            seen = weight[by, None] * places[there]
            if turned:
                seen = np.einsum("nd,nde->ne", seen, turns[by])
            total = np.zeros((count, 16))
            np.add.at(total, source, seen)
            total *= 4 / np.linalg.norm(total, axis=1, keepdims=True)
            return told**0.5 * total + (1 - told) ** 0.5 * rng.normal(size=total.shape)

        base = rng.normal(size=(number, 16))
        places = linked("Entity", number, base, 0.8, 0.8)
        world.places = linked("Item", world.items, places, 0.7, 0.3)
        return world

    return make


def named(groups: np.ndarray) -> list[str]:
    return [f"k{group}" for group in groups.tolist()]


WORLDS: Mapping[str, tuple[Callable[[int], World], tuple[str, ...]]] = {
    "nothing told": (lambda seed: World(seed), ("warm",)),
    "telling texts": (texts(1.0), ITEMS),
    "noisy texts": (texts(3.0), ITEMS),
    "texts that tell nothing": (texts(100.0), ITEMS),
    "weak tastes": (weak_tastes(12), ITEMS),
    "weak tastes, few interactions": (weak_tastes(3), ITEMS),
    "category of 8": (category(8), ITEMS),
    "category of 30": (category(30), ITEMS),
    "category that tells nothing": (category(20, 1.0), ITEMS),
    "artist of two items": (artist(genres=False), ITEMS),
    "genres of artists": (artist(genres=True), ITEMS),
    "12 relations of entities": (entities(12), ITEMS),
    "30 relations of entities": (entities(30), ITEMS),
    "30 relations, turned": (entities(30, turned=True), ITEMS),
    "numbers": (numbers(), ITEMS),
    "numbers, a wrong one each": (numbers(wrong=True), ITEMS),
    "numbers, a heavy tail": (numbers(tail=3.0), ITEMS),
    "few interactions": (few(kind=False), ("warm",)),
    "few interactions, category": (few(kind=True), ITEMS),
    "more items than interactions": (many_items, ("cold_items", "warm")),
    "five friends": (friends(5), USERS),
    "fifteen friends": (friends(15), USERS),
    "five friends, more picked": (friends(5, mean=25), USERS),
    "pages": (pages, USERS),
    "rich users": (rich_users, USERS),
}
"""By name: how it is made of a seed, and what is asked."""


def main() -> None:
    arguments = parser().parse_args()
    torch.set_num_threads(arguments.threads)
    ours = {"engine", *BASELINES} if arguments.baselines else {"engine"}
    for name, (make, asked) in WORLDS.items():
        if arguments.only not in name:
            continue
        print(f"\n== {name}", flush=True)
        rows: list[Row] = []
        for seed in map(int, arguments.seeds.split(",")):
            world = make(seed)
            graph = world.graph()
            cold = {"cold_users": 0.15} if "cold_users" in asked else {}
            split = random_split(
                graph, **cold, cold_items=0.15, held_out=0.1, rng=seed, name=f"seed {seed}"
            )
            segments = {
                segment: [n for n in ("engine", *FAMILIES.get(segment, ())) if n in ours]
                for segment in asked
            }
            if "mixed" in segments:
                segments["mixed"].append(OWN_LIFT)
            makers = makers_named({n for names in segments.values() for n in names})
            found = evaluate(
                graph, makers, [split], texts=world.texts, segments=segments, progress=log.debug
            )
            rows += found.rows
        print("\n" + Report(tuple(rows), K).to_text(), flush=True)


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    out.add_argument("--only", default="", help="worlds whose name has this in it")
    out.add_argument("--seeds", default="0,1,2,3")
    out.add_argument("--baselines", action="store_true", help="closed forms, too")
    out.add_argument("--threads", type=int, default=1)
    return out


if __name__ == "__main__":
    main()
