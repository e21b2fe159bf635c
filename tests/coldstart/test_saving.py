import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
import torch

from coldstart import ColdStartEngine, EngineConfig, saving
from encoders import TfidfEncoder
from gnn.train import TrainConfig
from kg import GraphDelta, KnowledgeGraph, Schema
from kg.errors import SavedFileError
from kg.files import MANIFEST, _manifest_of, _own_checksum, write_graph
from tests.coldstart.toys import RATED, ratings

ODD = ['with "quotes" and `ticks`', "slash/../up", "uni ☃ 映画", "dots.and\nlines", "group.0.table"]


def same(one, other):
    assert list(one.graph.users) == list(other.graph.users)
    assert list(one.graph.items) == list(other.graph.items)
    users, items = list(one.graph.users), list(one.graph.items)
    np.testing.assert_array_equal(one.score(users, items), other.score(users, items))
    assert one.recommend(users, 5).to_pylist() == other.recommend(users, 5).to_pylist()


@pytest.fixture
def saved(engine, tmp_path):
    engine.save(tmp_path / "model")
    return tmp_path / "model"


def load(folder, **options):
    return ColdStartEngine.load(folder, device="cpu", **options)


def test_a_loaded_engine_scores_identically(engine, saved):
    loaded = load(saved)
    same(loaded, engine)
    assert torch.equal(loaded.item_bias, engine.item_bias)
    assert loaded.config == engine.config
    assert loaded.feature_edges == engine.feature_edges
    for node_type, keys in (("User", ["u1", "u58"]), ("Movie", ["m1", "m78"])):
        np.testing.assert_array_equal(
            loaded.recomputed(node_type, keys).matrix, engine.recomputed(node_type, keys).matrix
        )


def test_after_an_update_too_and_updates_go_on_alike(engine, tmp_path):
    delta = GraphDelta(
        nodes={"User": {"id": ["v"], "age": [25]}},
        edges={RATED: ratings(("v", "m1"), ("u3", "m5"))},
        removed_nodes={"Movie": ["m0"], "User": ["u2"], "Genre": ["crime"]},
    )
    updated = engine.update(delta)
    updated.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    same(loaded, updated)
    more = GraphDelta(edges={RATED: ratings(("v", "m9"))}, removed_nodes={"User": ["u3"]})
    same(loaded.update(more), updated.update(more))


def test_odd_names_and_both_kinds_of_key_come_back(tmp_path):
    users, items = (
        {"id": [3, 1, 2], "age": [1, None, 5]},
        {"id": ["b", "a", "ü/../"], "k": list("xyx")},
    )
    edges = {("Movie", name, f"T {name}"): _pairs("ba", "ee") for name in ODD}
    schema = Schema(
        "User", "Movie", RATED, numeric={"User": ("age",)}, categorical={"Movie": ("k",)}
    )
    edges[RATED] = _pairs([3, 1, 3, 2], ["b", "b", "a", "a"])
    graph = KnowledgeGraph.from_tables({"User": users, "Movie": items}, edges, schema)
    engine = ColdStartEngine.fit(graph, texts={}, device="cpu")
    assert set(ODD) <= set(engine.items.propagation.names)
    engine.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    same(loaded, engine)
    assert loaded.embed("User", [1]).matrix.shape == (1, engine.dim)


def _pairs(source, target):
    return {"source": list(source), "target": list(target)}


def test_an_encoder_of_ones_own_comes_along_and_encodes_alike(graph, tmp_path):
    films = graph.attributes["Movie"]["plot"].to_pylist()
    encoder = TfidfEncoder.fit(films, dim=16)
    config = EngineConfig(TrainConfig(max_dim=8), cold_boost=0.5)
    engine = ColdStartEngine.fit(graph, config, encoder=encoder, cache=None, device="cpu")
    engine.save(tmp_path / "model")
    loaded = replace(load(tmp_path / "model"), cache=None)
    film = {"id": ["new"], "title": ["The wolf"], "plot": ["A story of forest and river."]}
    delta = GraphDelta(nodes={"Movie": film})
    same(loaded.update(delta), engine.update(delta))
    assert loaded.config == config


def test_saving_again_replaces_what_was_there(engine, saved):
    smaller = engine.update(GraphDelta(removed_nodes={"Movie": ["m0"]}))
    smaller.save(saved)
    same(load(saved), smaller)


def test_a_save_that_fails_leaves_the_old_one(engine, saved, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(saving, "write_graph_files", full)
    with pytest.raises(OSError, match="No space left"):
        engine.update(GraphDelta(removed_nodes={"Movie": ["m0"]})).save(saved)
    same(load(saved), engine)
    assert [p.name for p in saved.parent.iterdir()] == ["model"]


def test_nothing_saved_is_executable(saved):
    names = {p.suffix for p in saved.rglob("*") if p.is_file()}
    assert names == {".json", ".parquet", ".safetensors", ".toml"}


@pytest.mark.parametrize("name", ["arrays.safetensors", "engine.json", "graph/edges-0.parquet"])
def test_a_flipped_byte_is_found(saved, name):
    content = bytearray((saved / name).read_bytes())
    content[len(content) // 2] ^= 1
    (saved / name).write_bytes(bytes(content))
    with pytest.raises(SavedFileError, match=rf"{name} was changed after it was saved \(its check"):
        load(saved)


def test_a_file_cut_off_or_gone_or_too_many_is_found(saved):
    arrays = saved / "arrays.safetensors"
    content = arrays.read_bytes()
    arrays.write_bytes(content[:-100])
    with pytest.raises(SavedFileError, match=r"arrays\.safetensors should have .* cut off or chan"):
        load(saved)
    arrays.unlink()
    with pytest.raises(SavedFileError, match=r"the file arrays\.safetensors is missing"):
        load(saved)
    arrays.write_bytes(content)
    (saved / "stranger.bin").write_bytes(b"x")
    with pytest.raises(
        SavedFileError, match=r"stranger\.bin does not belong to this cold-start en"
    ):
        load(saved)


def test_a_half_written_engine_is_found(saved):
    (saved / MANIFEST).unlink()
    with pytest.raises(SavedFileError, match=r"no manifest\.json, which is written last, so it is"):
        load(saved)


def test_a_folder_that_is_not_there_or_something_else_is_named(tmp_path, graph):
    with pytest.raises(SavedFileError, match=r"no saved cold-start engine at .*no such folder"):
        load(tmp_path / "nowhere")
    write_graph(graph, tmp_path / "graph")
    with pytest.raises(SavedFileError, match="expected a saved cold-start engine, this is a know"):
        load(tmp_path / "graph")


def rewritten(saved, **changes):
    """The manifest with some entries changed and its own checksum right."""
    manifest = json.loads((saved / MANIFEST).read_text()) | changes
    manifest.pop("checksum")
    manifest["checksum"] = _own_checksum(manifest)
    (saved / MANIFEST).write_text(json.dumps(manifest))


def test_a_newer_version_asks_for_an_update(saved):
    rewritten(saved, version=99)
    with pytest.raises(SavedFileError, match=r"version 99 is newer than the version 3 .*; update"):
        load(saved)


@pytest.mark.parametrize("entry", ["users", "config", "feature_edges", "texts"])
def test_a_description_that_lacks_an_entry_is_an_error(saved, entry):
    described = json.loads((saved / "engine.json").read_text())
    described.pop(entry)
    (saved / "engine.json").write_text(json.dumps(described))
    rewritten(saved, files=_manifest_of(saved, "cold-start engine", 1)["files"])
    with pytest.raises(SavedFileError, match=rf"engine\.json lacks or misnames '{entry}'"):
        load(saved)


def test_an_engine_of_the_first_format_asks_to_be_fitted_again(engine, tmp_path, monkeypatch):
    write = safetensors.numpy.save_file

    def as_once(arrays, path):
        arrays["item_bias"] = arrays.pop("newness")
        write(arrays, path)

    monkeypatch.setattr(safetensors.numpy, "save_file", as_once)
    engine.save(tmp_path / "model")
    with pytest.raises(SavedFileError, match=r"format before version 3, .*; fit it again"):
        load(tmp_path / "model")


def test_so_does_one_of_the_second(saved):
    file = saved / "engine.json"
    meta = json.loads(file.read_text())
    del meta["items"]["few"], meta["users"]["few"]
    file.write_text(json.dumps(meta))
    rewritten(saved, version=2, files=_manifest_of(saved, "cold-start engine", 2)["files"])
    with pytest.raises(SavedFileError, match=r"format before version 3, .*; fit it again"):
        load(saved)


def test_one_from_before_gains_of_their_own_scores_as_it_did(engine, saved):
    file = saved / "engine.json"
    meta = json.loads(file.read_text())
    arrays = safetensors.numpy.load_file(saved / "arrays.safetensors")
    del arrays["familiarity"]  # there was none, but a gain that grew with the lift
    safetensors.numpy.save_file(arrays, saved / "arrays.safetensors")
    for boost, gain in ((0.2, 1.25 * 1.5), (-0.2, 1.25), (0.2, 2.0), (-0.2, 1.0)):
        if gain == 2.0:  # and before, nothing but that
            del meta["cold_gain"]
        meta["cold_boost"] = boost
        file.write_text(json.dumps(meta))
        rewritten(saved, files=_manifest_of(saved, "cold-start engine", 3)["files"])
        old = load(saved)
        longer = old.gain_at(engine.newness)
        np.testing.assert_allclose(longer, 1 + (gain - 1) * engine.newness, rtol=1e-6)
        assert old.familiarity.eq(1).all()
