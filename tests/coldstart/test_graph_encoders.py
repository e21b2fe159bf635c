from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from coldstart.engine import ColdStartEngine
from gnn.data import NodeInputs
from gnn.groups import Constant
from kg import GraphDelta, NodeEmbeddings, Vocabulary
from kg.errors import SavedFileError
from kg.toy import toy_graph
from tests.coldstart.toys import word_vectors

GRAPH = toy_graph(num_cold_items=8)


@dataclass(frozen=True, eq=False)
class Familiar:
    """Whether a film was chosen at training, a thing kept by row, beside how old it is."""

    mean: np.ndarray
    warm: np.ndarray
    name: str = "familiar"
    kind: ClassVar[str] = "familiar"

    def raw(self, inputs: NodeInputs, rows: np.ndarray, device: torch.device) -> torch.Tensor:
        at = inputs.rows[rows]
        warm = np.isin(at, np.flatnonzero(self.warm))
        age = np.nan_to_num(inputs.numeric["year"][rows] - self.mean[0]) / 10
        return torch.from_numpy(np.stack([warm, age], axis=1).astype(np.float32)).to(device)

    def renumbered(self, node_type, kept) -> Familiar:
        return replace(self, warm=self.warm[kept[node_type]]) if node_type in kept else self


class FamiliarEncoder:
    kinds: ClassVar[tuple[type, ...]] = (Familiar,)

    def fit(self, graph, user_inputs, item_inputs, positives, *, rng, device, progress=print):
        warm = np.isin(item_inputs.rows, positives[1])
        mean = np.nanmean(item_inputs.numeric["year"][warm], keepdims=True)
        return (), (Familiar(mean, warm),)


@pytest.fixture(scope="module")
def engine() -> ColdStartEngine:
    texts = word_vectors(GRAPH)
    return ColdStartEngine.fit(GRAPH, texts=texts, graph_encoders=[FamiliarEncoder()])


def test_a_graph_encoder_of_ones_own_stands_beside_the_default(engine):
    assert engine.items.propagation.names[-1] == "familiar"
    assert "familiar" not in engine.users.propagation.names
    found = engine.recommend(["u1"], 3)
    assert "part_familiar" in found.evidence
    drafted = engine.embed_new("Movie", properties={"year": 1990})
    nodes = {"Movie": {"id": ["new"], "year": [1990]}}
    none = NodeEmbeddings(Vocabulary("Movie", ["new"]), np.zeros((1, 24), np.float32))
    grown = engine.update(GraphDelta(nodes=nodes), texts={"Movie": none})
    np.testing.assert_allclose(grown.embed("Movie", ["new"]).matrix[0], drafted, atol=1e-5)


def test_what_it_keeps_by_row_follows_when_films_are_removed(engine):
    left = engine.update(GraphDelta(removed_nodes={"Movie": ["m0", "m5"]}))
    assert len(left.items.propagation.groups[-1].warm) == 78
    before, after = (e.recomputed("Movie", ["m79"]).matrix for e in (engine, left))
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_an_engine_with_it_is_loaded_by_giving_it_again(engine, tmp_path):
    engine.save(tmp_path / "e")
    told = r"fitted with the graph encoder tests\S*\.FamiliarEncoder.*graph_encoders=\[Fam"
    with pytest.raises(SavedFileError, match=told):
        ColdStartEngine.load(tmp_path / "e")
    again = ColdStartEngine.load(tmp_path / "e", graph_encoders=[FamiliarEncoder()])
    fresh, theirs = (e.recomputed("Movie", ["m1", "m79"]).matrix for e in (again, engine))
    np.testing.assert_allclose(fresh, theirs, atol=1e-6)
    assert isinstance(again.graph_encoders[0], FamiliarEncoder)  # for a refit


@dataclass(frozen=True, eq=False)
class Impostor(Familiar):
    kind: ClassVar[str] = "category"


class ImpostorEncoder(FamiliarEncoder):
    kinds: ClassVar[tuple[type, ...]] = (Impostor,)


class ForgetfulEncoder(FamiliarEncoder):
    kinds: ClassVar[tuple[type, ...]] = ()


class PlainEncoder:
    """Ours twice: nothing in what is saved tells that somebody's own encoder was there."""

    kinds: ClassVar[tuple[type, ...]] = (Constant,)

    def fit(self, graph, user_inputs, item_inputs, positives, *, rng, device, progress=print):
        return (), (Constant("one"),)


def test_a_kind_that_is_taken_or_not_named_is_refused_before_it_is_loaded_as_another():
    with pytest.raises(ValueError, match=r"Impostor and gnn\.groups\.Category both have the kind"):
        ColdStartEngine.fit(GRAPH, texts={}, graph_encoders=[ImpostorEncoder()])
    with pytest.raises(
        ValueError, match=r"Forgetful.* made a feature group of .*\.Familiar, which"
    ):
        ColdStartEngine.fit(GRAPH, texts={}, graph_encoders=[ForgetfulEncoder()])


def test_an_encoder_of_groups_like_ours_is_missed_at_load_and_one_renamed_is_taken(
    engine, tmp_path
):
    ColdStartEngine.fit(GRAPH, texts={}, graph_encoders=[PlainEncoder()]).save(tmp_path / "plain")
    with pytest.raises(SavedFileError, match=r"PlainEncoder, .* of kind \['constant'\], and none"):
        ColdStartEngine.load(tmp_path / "plain")
    again = ColdStartEngine.load(tmp_path / "plain", graph_encoders=[PlainEncoder()])
    assert again.items.propagation.groups[-1].name == "one"
    engine.save(tmp_path / "e")
    renamed = type("KnownEncoder", (FamiliarEncoder,), {})
    ColdStartEngine.load(tmp_path / "e", graph_encoders=[renamed()])
