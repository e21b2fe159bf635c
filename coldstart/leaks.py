"""Held-out interactions that a graph still tells: as edges, spelled out, or made into profiles."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from coldstart.splits import Split
from gnn.data import Adjacency
from kg.graph import KnowledgeGraph
from kg.tables import text_column

NUM_EXAMPLES = 5
LEAST_NAMED = 5
"""A property is not refused for fewer held-out pairs that it names, ..."""

TIMES_CHANCE = 5.0
"""... nor for fewer than so many times those that chance names, ..."""

DEVIATIONS = 6.0
"""... nor for an excess of fewer standard deviations of that chance."""

_MOST_PAIRS = 20_000
_SHUFFLES = 10
_NAME_PROPERTIES = ("title", "name")
_WORD = re.compile(r"\w+")


class LeakError(ValueError):
    """A graph tells a scorer the answers that it is to be judged by."""


@dataclass(frozen=True, eq=False)
class Leak:
    """A place where held-out pairs can be read.

    Args:
        where: the relation or property.
        sentence: what is wrong with it.
        rows: some of the offending rows, by the user's own keys.
        number: how many there are.
        advice: what to do.
    """

    where: str
    sentence: str
    rows: tuple[dict[str, Any], ...]
    number: int
    advice: str

    def __str__(self) -> str:
        return f"{self.where}: {self.sentence}, for example {list(self.rows)}; {self.advice}"


def refuse_leaks(graph: KnowledgeGraph, split: Split) -> None:
    """Raise where the training graph of a split tells pairs that are held out.

    Raises:
        LeakError: with every place and its first rows.
    """
    if leaks := find_leaks(graph, split):
        told = "\n".join(map(str, leaks))
        raise LeakError(
            f"split {split.name}: held-out interactions can be read in the graph\n{told}\n"
            "(evaluate(..., check_leaks=False) judges all the same)"
        )


def find_leaks(graph: KnowledgeGraph, split: Split) -> list[Leak]:
    """Where the training graph of a split tells pairs that are held out.

    A relation between users and items other than the interaction leaks if it holds any held-out
    pair. A property that is used as text or category leaks if it names the partners of held-out
    pairs far above chance. A profile leaks, which is any property or relation, if it can be worked
    out from held-out interactions; :mod:`coldstart.profiles` says how that is told.

    *Named* is a partner whose key or title (first text property, or ``title`` or ``name``) stands
    in the property as whole words, whatever their case. The names of training partners are cut out
    first: those may be told, and may be or hold the names of others (two films of one title, a
    sequel). *Chance* is how often pairs are named when the partners are shuffled among the held-out
    pairs, which keeps every node as frequent as it is; shuffled pairs that are positives do not
    count. *Far* is at least ``LEAST_NAMED`` pairs, ``TIMES_CHANCE`` times as many as by chance, and
    ``DEVIATIONS`` standard deviations of a Poisson variable more. At most 20,000 pairs are looked
    at.

    Args:
        graph: with all interactions.
        split: says which are held out.
    """
    from coldstart.profiles import profile_leaks

    return [*_edges(graph, split), *_texts(graph, split), *profile_leaks(graph, split)]


def _edges(graph: KnowledgeGraph, split: Split) -> Iterator[Leak]:
    width = max(len(graph.items), 1)
    held_out = split.pairs[:, split.pair_part != "train"]
    secret = held_out[0] * width + held_out[1]
    ends = {graph.schema.user, graph.schema.item}
    for edge_type, edges in graph.edges.items():
        if edge_type == graph.schema.interaction or {edge_type[0], edge_type[2]} != ends:
            continue
        users, items = edges.index if edge_type[0] == graph.schema.user else edges.index[::-1]
        told = np.flatnonzero(np.isin(users * width + items, secret))
        if len(told):
            yield Leak(
                "-".join(edge_type),
                f"{len(told)} of its {len(edges)} edges are held-out interactions",
                tuple(
                    {"user": graph.users[int(users[e])], "item": graph.items[int(items[e])]}
                    for e in told[:NUM_EXAMPLES]
                ),
                len(told),
                "leave the relation out, or those edges, and build what was made from it anew",
            )


def _texts(graph: KnowledgeGraph, split: Split) -> Iterator[Leak]:
    rng = np.random.default_rng(0)
    pairs = split.pairs[:, split.pair_part != "train"]
    if pairs.shape[1] > _MOST_PAIRS:
        pairs = pairs[:, np.sort(rng.choice(pairs.shape[1], _MOST_PAIRS, replace=False))]
    width = max(len(graph.items), 1)
    positive = split.pairs[0] * width + split.pairs[1]
    shuffled = [_shuffled(pairs, positive, width, rng) for _ in range(_SHUFFLES)]
    num_shuffled = sum(other.shape[1] for other in shuffled)
    types = graph.schema.user, graph.schema.item
    for here, node_type in enumerate(types):
        names, table = names_of(graph, types[1 - here]), graph.attributes[node_type]
        used = (graph.schema.text, graph.schema.categorical)
        for name in dict.fromkeys(p for role in used for p in role.get(node_type, ())):
            if name not in table.column_names:
                continue
            texts = [plain_words(text or "") for text in text_column(table[name])]
            by_chance = sum(int(_named(texts, names, other, here).sum()) for other in shuffled)
            chance = by_chance / max(num_shuffled, 1) * pairs.shape[1]
            named = _named(texts, names, pairs, here)
            if named.any():
                left = _without_known(texts, names, pairs[here, named], split.train, here)
                named = _named(left, names, pairs, here)
            # One more than was seen in all shuffles: a chance of none is not certain.
            far = chance + DEVIATIONS * np.sqrt(chance + 1 / _SHUFFLES)
            if (found := int(named.sum())) >= max(LEAST_NAMED, TIMES_CHANCE * chance, far):
                yield Leak(
                    f"{node_type}.{name}",
                    f"it names the {types[1 - here]} of {found} of {pairs.shape[1]} held-out "
                    f"interactions, where chance names {chance:.1f}",
                    tuple(
                        {
                            "user": graph.users[pair[0]],
                            "item": graph.items[pair[1]],
                            name: _short(table[name][pair[here]].as_py()),
                        }
                        for pair in pairs[:, named][:, :NUM_EXAMPLES].T.tolist()
                    ),
                    found,
                    "leave the property out, or write it without held-out interactions",
                )


def _shuffled(
    pairs: np.ndarray, positive: np.ndarray, width: int, rng: np.random.Generator
) -> np.ndarray:
    """Users with the items of others; none of the pairs is a positive."""
    other = np.stack([pairs[0], rng.permutation(pairs[1])])
    return other[:, ~np.isin(other[0] * width + other[1], positive)]


def names_of(
    graph: KnowledgeGraph, node_type: str, rows: np.ndarray | None = None
) -> list[tuple[str, ...]]:
    """Key and title of nodes, as :func:`plain_words` writes them; of all without ``rows``."""
    table, keys = graph.attributes[node_type], graph.vocabularies[node_type].keys
    titles = (*graph.schema.text.get(node_type, ())[:1], *_NAME_PROPERTIES)
    title = next((name for name in titles if name in table.column_names), None)
    columns = [keys, *([table[title]] if title else [])]
    some = columns if rows is None else [column.take(pa.array(rows)) for column in columns]
    written = [text_column(column) for column in some]
    plain = ({plain_words(name or "") for name in row} for row in zip(*written, strict=True))
    return [tuple(sorted(names - {plain_words("")})) for names in plain]


def plain_words(text: str) -> str:
    """The words in one case, with a space on either side of each."""
    return f" {' '.join(_WORD.findall(text.casefold()))} "


def _named(
    texts: list[str], names: list[tuple[str, ...]], pairs: np.ndarray, here: int
) -> np.ndarray:
    """Whether the text of one end of a pair holds a name of the other, bool ``[num_pairs]``."""
    ends = zip(pairs[here].tolist(), pairs[1 - here].tolist(), strict=True)
    return np.array([any(name in texts[at] for name in names[to]) for at, to in ends], bool)


def _without_known(
    texts: list[str],
    names: list[tuple[str, ...]],
    rows: np.ndarray,
    train: np.ndarray,
    here: int,
) -> list[str]:
    """The texts of some nodes without the names of their training partners, others empty."""
    left = [""] * len(texts)
    rows = np.unique(rows)
    of_rows = Adjacency.from_pairs(train[here], train[1 - here], len(texts), len(names)).take(rows)
    for at, row in enumerate(rows.tolist()):
        text = texts[row]
        partners = of_rows.indices[of_rows.indptr[at] : of_rows.indptr[at + 1]].tolist()
        known = {name for partner in partners for name in names[partner]}
        for name in sorted(known, key=len, reverse=True):
            while name in text:
                text = text.replace(name, " ")
        left[row] = text
    return left


def _short(value: Any, most: int = 80) -> Any:
    return f"{value[: most - 1]}…" if isinstance(value, str) and len(value) > most else value
