from dataclasses import replace

import numpy as np
import pyarrow.compute as pc
import pytest
import torch

from coldstart import ColdStartEngine, EngineConfig, evaluate
from coldstart.calibration import COLD_GAIN, FAMILIAR_SHARE, HALF_NEW
from coldstart.feedback import FeedbackEvent
from coldstart.report import Report
from coldstart.scorer import cosine_plus_bias
from coldstart.splits import random_split
from coldstart.temporal import temporal_split
from gnn.infer import priors
from gnn.iterative import IterativeRidge
from gnn.train import TrainConfig
from kg import GraphDelta, KnowledgeGraph, NodeEmbeddings, Schema
from kg.auditing import Audit, audit
from kg.errors import GraphError, UnknownNodeError
from kg.toy import toy_graph
from tests.coldstart.toys import GENRE, RATED, ratings, word_vectors

COLD_ITEMS = [f"m{n}" for n in range(72, 80)]
COLD_USERS = [f"u{n}" for n in range(54, 60)]
BARE = Schema(user="User", item="Movie", interaction=RATED)


def fitted(graph, **options):
    options.setdefault("texts", word_vectors(graph) if "plot" in _films(graph) else {})
    return ColdStartEngine.fit(graph, device="cpu", **options)


def _films(graph):
    return graph.attributes["Movie"].column_names


def bare(ratings, users=("u", "v"), items=("a", "b", "c"), schema=BARE):
    nodes = {"User": {"id": list(users)}, "Movie": {"id": list(items)}}
    return KnowledgeGraph.from_tables(nodes, {RATED: ratings}, schema)


def pairs(found):
    return [(row["user"], row["item"]) for row in found.to_pylist()]


def taste(key):
    return int(key[1:]) % 4


# Embeddings


def test_two_fits_with_the_same_seed_agree_exactly(graph, engine):
    again = fitted(graph)
    assert torch.equal(again.user_vectors, engine.user_vectors)
    assert torch.equal(again.item_vectors, engine.item_vectors)
    assert torch.equal(again.item_bias, engine.item_bias)
    assert not torch.equal(fitted(graph, rng=1).item_vectors, engine.item_vectors)


def test_a_deleted_embedding_comes_back_from_edges_features_and_the_other_side(graph, engine):
    for name, node_type in (("user_vectors", "User"), ("item_vectors", "Movie")):
        lost = replace(engine, **{name: torch.full_like(getattr(engine, name), torch.nan)})
        keys = list(graph.vocabularies[node_type])
        found = lost.recomputed(node_type, keys).matrix
        np.testing.assert_allclose(found, engine.embed(node_type, keys).matrix, atol=1e-5)


def test_ridge_of_many_rows_comes_to_nearly_the_same_engine(graph, engine, monkeypatch):
    """Too many rows to invert and too many columns, were the graph a large one."""
    monkeypatch.setattr("gnn.ridge.MAX_DUAL", 10)
    monkeypatch.setattr("gnn.ridge.MAX_WIDTH", 10)
    monkeypatch.setattr("gnn.iterative.RANK", 20)
    made = []
    plain = IterativeRidge._read
    monkeypatch.setattr(IterativeRidge, "_read", lambda self, raws: made.append(plain(self, raws)))
    large = fitted(graph)
    assert len(made) > 2  # of both sides, and of a rehearsal
    test_a_deleted_embedding_comes_back_from_edges_features_and_the_other_side(graph, large)
    users, items = list(graph.users), list(graph.items)
    found, exact = large.score(users, items), engine.score(users, items)
    assert np.corrcoef(found.ravel(), exact.ravel())[0, 1] > 0.99
    assert np.corrcoef(*(e.score(users, COLD_ITEMS).ravel() for e in (large, engine)))[0, 1] > 0.99
    assert np.isfinite(large.rate(users, items)).all()


def test_a_node_is_recomputed_alone_as_among_all(engine):
    for node_type, keys in (("User", ["u3", "u57"]), ("Movie", ["m5", "m79"])):
        for key in keys:
            alone = engine.recomputed(node_type, [key]).matrix
            np.testing.assert_allclose(alone, engine.embed(node_type, [key]).matrix, atol=1e-5)


def test_a_node_without_interactions_has_the_prior_of_its_features_exactly(engine):
    for node_type, keys in (("User", COLD_USERS), ("Movie", COLD_ITEMS)):
        side, _ = engine._side(node_type)
        inputs = engine._inputs_of(node_type, np.arange(len(engine.embeddings(node_type))))
        prior = priors(side, inputs, inputs.rows, torch.device("cpu"))[-len(keys) :]
        gain = engine.cold_gain if node_type == "Movie" else 1
        np.testing.assert_array_equal(engine.embed(node_type, keys).matrix, gain * prior.numpy())
    assert engine.cold_gain == COLD_GAIN


def test_embeddings_are_for_users_and_items_and_copies(engine):
    every = engine.embeddings("Movie")
    assert every.matrix.shape == (80, engine.dim)
    np.testing.assert_array_equal(every.of(["m7"]), engine.embed("Movie", ["m7"]).matrix)
    every.matrix[:] = 0
    assert engine.embeddings("Movie").matrix.any()
    with pytest.raises(ValueError, match="embeddings are made for 'User' and 'Movie', not 'Genre'"):
        engine.embeddings("Genre")
    with pytest.raises(UnknownNodeError, match="'m99' is not among the 80 known"):
        engine.embed("Movie", ["m99"])


def test_cold_nodes_do_not_change_what_is_learnt(graph, engine):
    gone = GraphDelta(removed_nodes={"Movie": COLD_ITEMS, "User": COLD_USERS})
    fewer = fitted(graph.apply(gone))
    assert torch.equal(fewer.user_vectors, engine.user_vectors[:54])
    assert torch.equal(fewer.item_vectors, engine.item_vectors[:72])
    assert fewer.cold_boost == engine.cold_boost


# Scores


@pytest.mark.parametrize("number", [99, 100])
def test_training_on_few_interactions_is_warned_of(number, caplog):
    keys = [f"u{n}" for n in range(10)], [f"m{n}" for n in range(12)]
    every = [(user, item) for user in keys[0] for item in keys[1]][:number]
    source, target = zip(*every, strict=True)
    fitted(bare({"source": source, "target": target}, *keys))
    assert ("99 positive interactions" in caplog.text) == (number == 99)


@pytest.mark.parametrize(("repeated", "weighted"), [(5, False), (4, False), (5, True)])
def test_repeats_without_weights_are_warned_of(repeated, weighted, caplog):
    keys = [f"u{n}" for n in range(10)], [f"m{n}" for n in range(10)]
    every = [(user, item) for user in keys[0] for item in keys[1]]
    every += every[:repeated]
    source, target = zip(*every, strict=True)
    weights = {"weight": [1 + n % 2 for n in range(len(every))]} if weighted else {}
    events = bare({"source": source, "target": target} | weights, *keys)
    fitted(events)
    told = f"{repeated} of {len(every)} interactions repeat a pair"
    assert (told in caplog.text) == (repeated == 5 and not weighted)
    if not weighted:
        caplog.clear()
        fitted(events.with_interactions_counted())
        assert "repeat" not in caplog.text


def test_the_score_is_the_cosine_with_gains_and_biases(engine):
    u, i = engine.user_vectors.numpy(), engine.item_vectors.numpy()
    gains = np.linalg.norm(u, axis=1), engine.item_gain.numpy() * np.linalg.norm(i, axis=1)
    engine = replace(engine, cold_boost=0.5)
    biases = np.zeros(60), engine.item_bias.numpy(), engine.familiarity.numpy()
    r = cosine_plus_bias(u, i, *gains, *biases)
    users, items = list(engine.graph.users), list(engine.graph.items)
    np.testing.assert_allclose(engine.score(users, items), r, atol=1e-5)
    assert engine.score(["u1"], ["m1", "m2"]).dtype == np.float32


def test_a_score_ignores_batch_and_candidates_bit_for_bit(engine):
    users, items = list(engine.graph.users), list(engine.graph.items)
    together = engine.score(users, items)
    for u, i in np.ndindex(together.shape):
        assert engine.score([users[u]], [items[i]])[0, 0] == together[u, i]
    some = engine.recommend(["u3"], 2, candidates=["m5", "m9"], exclude_seen=False).to_pylist()
    assert {row["item"]: row["score"] for row in some} == {
        "m5": together[3, 5],
        "m9": together[3, 9],
    }


def test_lists_and_scores_are_the_same_numbers_bit_for_bit(engine):
    users, items = list(engine.graph.users), list(engine.graph.items)
    scores = engine.score(users, items)
    for found in (
        engine.recommend(users, 80, exclude_seen=False, evidence=False),
        engine.audience(items, 60, exclude_seen=False, evidence=False),
    ):
        assert len(found) == 60 * 80
        np.testing.assert_array_equal(found.scores, scores[found.user_rows, found.item_rows])


def test_an_item_is_lifted_by_the_cold_boost_as_far_as_it_is_new(graph):
    engine = fitted(graph, config=EngineConfig(cold_boost=2.5))
    exposure = engine.items.exposure.numpy()
    assert np.median(exposure) == 1
    warm = engine.item_bias[:72].numpy()
    assert (warm <= 2.5 * (1 - exposure) + 1e-6).all()  # less for what was seen and not liked
    np.testing.assert_array_equal(warm > 0, exposure < 1)
    np.testing.assert_allclose(engine.item_bias[72:], 2.5)


def test_an_item_has_the_gain_of_a_new_one_as_far_as_it_is_new(graph):
    engine = fitted(graph, config=EngineConfig(cold_boost=0.4))
    row = engine.graph.items.row(COLD_ITEMS[0])
    gain = engine.item_gain[row].item()
    assert gain == pytest.approx(engine.cold_gain)
    assert gain > 1
    liked = GraphDelta(edges={RATED: ratings(("u1", COLD_ITEMS[0]))})
    share = HALF_NEW / (HALF_NEW + 1)
    assert engine.update(liked).item_gain[row].item() == pytest.approx(1 + (gain - 1) * share)
    known = engine.items.exposure.numpy() == 1
    np.testing.assert_array_equal(engine.item_gain[:72][torch.from_numpy(known)], 1)


def test_a_user_gets_the_lift_of_new_items_as_far_as_the_user_is_known(graph):
    engine = fitted(graph, config=EngineConfig(cold_boost=100.0))
    half = FAMILIAR_SHARE * graph.positives().shape[1] / 54
    assert engine.half_familiar == pytest.approx(half)
    new, old = COLD_ITEMS[0], "m1"
    assert engine.familiarity[54:].eq(0).all()  # nobody knows them

    def apart(engine, user):
        lifted = engine.score([user], [new, old])[0]
        return lifted - replace(engine, cold_boost=0.0).score([user], [new, old])[0]

    np.testing.assert_array_equal(apart(engine, "u54"), 0)
    lists = [engine.recommend([u], 8).to_table()["item"].to_pylist() for u in ("u54", "u1")]
    assert set(lists[0]) != set(COLD_ITEMS) == set(lists[1])
    before = 0.0
    for count in (1, 2, 5, 20):
        liked = ratings(*(("u54", f"m{n}") for n in range(2, 2 + count)))
        later = engine.update(GraphDelta(edges={RATED: liked}))
        share = count**3 / (count**3 + half**3)
        np.testing.assert_allclose(apart(later, "u54")[0], 100 * share, rtol=1e-4)
        assert later.familiarity[54] > before
        before = float(later.familiarity[54])
        found = later.explain("u54", new)
        assert sum(part.share for part in found.parts) == pytest.approx(found.score, abs=1e-3)
        row = later.recommend(["u54"], 1, candidates=[new]).to_pylist()[0]
        parts = [value for name, value in row.items() if name.startswith("part_")]
        assert sum(parts) == pytest.approx(row["score"], abs=1e-3)
        assert later.familiarity[:54].equal(engine.familiarity[:54])
        gone = later.update(GraphDelta(removed_nodes={"User": ["u3"]}))
        assert gone.score(["u54"], [new]) == later.score(["u54"], [new])


def test_an_item_that_came_just_before_training_is_hardly_charged_with_what_it_lacks(graph):
    edges = graph.interactions
    times = np.arange(len(edges))
    item = int(np.bincount(graph.positives()[1], minlength=72)[:72].argmin())
    times[edges.index[1] == item] = len(edges) + 1
    late = replace(edges, time=times)
    alike = EngineConfig(propagation=TrainConfig(strength_share=0))
    dated = replace(graph, edges=graph.edges | {graph.schema.interaction: late})
    engine = fitted(dated, config=alike)
    count = int((edges.index[1] == item).sum())
    place = int(np.flatnonzero(engine.items.warm == item)[0])
    assert float(engine.items.exposure[place]) == pytest.approx(
        min(1, 2 * count / len(edges) * 0.05 ** (-1 / count)), rel=1e-3
    )
    same = fitted(graph, config=alike)
    assert engine.item_vectors[item].norm() > 1.02 * same.item_vectors[item].norm()


def test_settings_that_make_no_sense_are_errors():
    with pytest.raises(
        ValueError, match="cold_boost must be a finite number or 'auto', got 'lots'"
    ):
        EngineConfig(cold_boost="lots")


# Tastes


def test_an_unseen_film_of_ones_taste_outranks_the_others(engine):
    users = [f"u{n}" for n in range(54)]
    scores = engine.score(users, COLD_ITEMS)
    alike = np.array([[taste(u) == taste(i) for i in COLD_ITEMS] for u in users])
    assert alike[np.arange(54), scores.argmax(axis=1)].all()
    assert scores[alike].mean() > scores[~alike].mean() + 0.5


@pytest.mark.parametrize("telling", ["text", "genre"])
def test_text_or_genre_alone_is_enough(telling):
    graph = toy_graph(num_cold_items=8)
    texts = word_vectors(graph)
    kept = {RATED: graph.interactions}
    if telling == "genre":
        kept[GENRE] = graph.edges[GENRE]
        texts = {}
    schema = replace(graph.schema, numeric={}, edge_types=())
    only = KnowledgeGraph(schema, graph.vocabularies, graph.attributes, kept)
    engine = fitted(only, texts=texts)
    users = [f"u{n}" for n in range(60)]
    scores = engine.score(users, COLD_ITEMS)
    alike = np.array([[taste(u) == taste(i) for i in COLD_ITEMS] for u in users])
    assert (alike[np.arange(60), scores.argmax(axis=1)]).mean() > 0.95


def test_attributes_of_a_cold_user_move_the_list_to_the_users_taste(engine):
    found = engine.recommend(COLD_USERS, 10)
    hits = [taste(user) == taste(item) for user, item in pairs(found)]
    assert np.mean(hits) > 0.7


def test_a_user_type_without_any_feature_gets_the_mean_user():
    pairs_ = [("u", "a"), ("u", "b"), ("v", "a"), ("w", "a"), ("w", "c")]
    source, target = zip(*pairs_, strict=True)
    users = ("u", "v", "w", "new", "newer")
    engine = fitted(bare({"source": source, "target": target}, users))
    new, newer = engine.embed("User", ["new", "newer"]).matrix
    np.testing.assert_array_equal(new, newer)
    best = engine.recommend(["new"], 1, exclude_seen=False).to_pylist()[0]
    assert best["item"] == "a"


# Lists


def test_recommend_is_the_best_of_the_scores_without_what_was_seen(engine, graph):
    found = engine.recommend(["u5"], 10).to_pylist()
    assert [row["rank"] for row in found] == list(range(1, 11))
    seen = set(graph.interactions.index[1][graph.interactions.index[0] == 5].tolist())
    scores = engine.score(["u5"], list(graph.items))[0]
    left = [i for i in np.argsort(-scores, kind="stable") if i not in seen][:10]
    assert [row["item"] for row in found] == [f"m{i}" for i in left]
    assert [row["score"] for row in found] == scores[left].tolist()


def test_users_get_the_same_list_alone_and_together(engine):
    users = list(engine.graph.users)
    together = engine.recommend(users, 5, evidence=False)
    alone = [engine.recommend([user], 5, evidence=False) for user in users]
    assert pairs(together) == [pair for one in alone for pair in pairs(one)]
    scores = np.concatenate([one.scores for one in alone])
    np.testing.assert_array_equal(together.scores, scores)


def test_candidates_filters_and_what_was_seen_are_kept_to(engine, graph):
    some = ["m70", "m3", "m71", "m72"]
    found = engine.recommend(["u1", "u2"], 10, candidates=some, exclude_seen=False)
    assert sorted(pairs(found)) == sorted((u, m) for u in ("u1", "u2") for m in some)
    years = dict(zip(graph.items, graph.attributes["Movie"]["year"].to_pylist(), strict=True))
    early = engine.recommend(["u1"], 80, where=pc.field("year") < 1970, exclude_seen=False)
    expected = {m for m, year in years.items() if year is not None and year < 1970}
    assert {item for _, item in pairs(early)} == expected
    one = engine.recommend(["u1"], 80, where={"year": [1960, 1975]}, exclude_seen=False)
    assert {item for _, item in pairs(one)} == {m for m, y in years.items() if y in (1960, 1975)}
    both = engine.recommend(["u1"], 9, candidates=some, where={"id": "m3"}, exclude_seen=False)
    assert pairs(both) == [("u1", "m3")]


def test_audience_is_the_column_of_the_scores(engine, graph):
    found = engine.audience(["m75", "m2"], 60, exclude_seen=False).to_pylist()
    users, scores = list(graph.users), engine.score(list(graph.users), ["m75", "m2"])
    for column, item in enumerate(["m75", "m2"]):
        rows = [row for row in found if row["item"] == item]
        order = np.argsort(-scores[:, column], kind="stable")
        assert [row["user"] for row in rows] == [users[u] for u in order]
        assert [row["score"] for row in rows] == scores[order, column].tolist()
    seen = graph.interactions.index
    raters = {f"u{u}" for u in seen[0][seen[1] == 2]}
    left = {user for user, _ in pairs(engine.audience(["m2"], 60))}
    assert left == set(users) - raters


def test_an_audience_can_be_chosen_by_the_properties_of_users(engine):
    found = engine.audience(["m75"], 100, where=pc.field("age") < 30).to_pylist()
    ages = engine.graph.attributes["User"]["age"].to_pylist()
    assert found
    assert all(ages[int(row["user"][1:])] < 30 for row in found)


def test_more_than_the_catalogue_gives_a_shorter_list(engine):
    assert len(engine.recommend(["u58"], 1000)) == 80
    seen = (engine.graph.interactions.index[0] == 1).sum()
    assert len(engine.recommend(["u1"], 1000)) == 80 - seen


def test_nobody_or_nothing_to_choose_from_is_an_empty_list(engine):
    assert engine.recommend([], 3).to_pylist() == []
    assert engine.recommend(["u1"], 3, candidates=[]).to_pylist() == []
    assert engine.recommend(["u1"], 3, where={"year": 1066}).to_pylist() == []
    assert engine.score([], ["m1"]).shape == (0, 1)


def test_items_that_nothing_is_known_of_tie_in_item_order():
    ratings = {"source": ["u", "u", "v"], "target": ["a", "b", "a"]}
    unknown = [f"x{n}" for n in range(300)]
    engine = fitted(bare(ratings, items=["a", "b", *unknown]))
    found = engine.recommend(["u", "v"], 300, candidates=unknown)
    for user in ("u", "v"):
        assert [item for one, item in pairs(found) if one == user] == unknown


# Bad input


@pytest.mark.parametrize("k", [0, -3, 2.5, True, "10"])
def test_a_length_that_is_no_whole_number_from_one_is_an_error(engine, k):
    with pytest.raises(ValueError, match=f"k must be a whole number of at least 1, got {k!r}"):
        engine.recommend(["u1"], k)


def test_unknown_users_items_and_candidates_are_named(engine):
    with pytest.raises(
        UnknownNodeError, match="User 'nobody' is not among the 60 known; check the key"
    ):
        engine.recommend(["u1", "nobody"])
    with pytest.raises(
        UnknownNodeError, match="Movie 'm99' is not among the 80 known; check the key"
    ):
        engine.recommend(["u1"], candidates=["m1", "m99"])
    with pytest.raises(UnknownNodeError, match=r"User 7 is not among .*; keys of User are str"):
        engine.score([7], ["m1"])
    with pytest.raises(TypeError, match="expected a list of User keys, got the string 'u1'"):
        engine.recommend("u1")


@pytest.mark.parametrize("where", [{"director": "Lynch"}, pc.field("director") == "Lynch"])
def test_a_filter_on_a_property_that_items_lack_names_those_they_have(engine, where):
    with pytest.raises(
        ValueError, match=r"where= names 'director', and .* only id, title, plot, year$"
    ):
        engine.recommend(["u1"], where=where)


@pytest.mark.parametrize("where", ["year > 1990", 7])
def test_a_filter_that_is_no_filter_is_an_error(engine, where):
    with pytest.raises(ValueError, match="does not fit Movie"):
        engine.recommend(["u1"], where=where)


@pytest.mark.parametrize("where", ["year > 1990", [True, False]])
def test_a_filter_of_another_kind_is_told_what_is_expected(engine, where):
    with pytest.raises(ValueError, match=r'an Arrow expression, such as .*"\) > 300, or a mapping'):
        engine.recommend(["u1"], where=where)


@pytest.mark.parametrize("act", [ColdStartEngine.fit, audit, lambda one: evaluate(one, [], [])])
def test_a_folder_in_place_of_a_graph_is_told_how_it_is_read(act):
    with pytest.raises(TypeError, match=r"a KnowledgeGraph, got str 'graph'; read_graph\(folder\)"):
        act("graph")


def test_a_graph_without_users_items_or_positives_cannot_be_trained_on():
    none = {"source": [], "target": []}
    with pytest.raises(GraphError, match="no nodes of type 'User'; add some first"):
        fitted(bare(none, users=()))
    with pytest.raises(GraphError, match="no nodes of type 'Movie'; add some first"):
        fitted(bare(none, items=()))
    with pytest.raises(
        GraphError, match=r"no \('User', 'RATED', 'Movie'\) edges, which .* add some"
    ):
        fitted(bare(none))
    low = {"source": ["u"], "target": ["a"], "weight": [2.0]}
    too_low = r"none of the 1 \('User', 'RATED', 'Movie'\) .* is 4, the highest weight 2; lower"
    with pytest.raises(GraphError, match=too_low):
        fitted(bare(low, schema=replace(BARE, positive_weight=4)))


def test_an_interaction_that_is_misspelt_in_the_schema_is_named_beside_the_one_there():
    schema = Schema(user="User", item="Movie", interaction=("User", "LIKED", "Movie"))
    expected = (
        r"names \('User', 'LIKED', 'Movie'\) as interaction, .* but \('User', 'RATED', 'Movie'\) "
        r"from User to Movie; .* \(interaction=\.\.\.\)"
    )
    graph = bare({"source": ["u"], "target": ["a"]}, schema=schema)
    for act in (fitted, temporal_split, lambda one: random_split(one, rng=np.random.default_rng())):
        with pytest.raises(GraphError, match=expected):
            act(graph)


def test_a_single_interaction_is_enough():
    engine = fitted(bare({"source": ["u"], "target": ["b"]}))
    assert engine.recommend(["v"], 1).to_pylist()[0]["item"] == "b"
    assert np.isfinite(engine.score(["u", "v"], ["a", "b", "c"])).all()


def test_a_device_that_is_not_there_is_an_error(graph):
    with pytest.raises(ValueError, match=r"device 'abacus' cannot be used here .*; use 'auto'"):
        ColdStartEngine.fit(graph, texts=word_vectors(graph), device="abacus")


def test_text_vectors_must_cover_every_node_and_be_finite(graph):
    texts = word_vectors(graph)["Movie"]
    some = NodeEmbeddings(texts.nodes.take(np.arange(79)), texts.matrix[:79])
    with pytest.raises(UnknownNodeError, match="Movie 'm79' has no text vector, 1 in all; give"):
        fitted(graph, texts={"Movie": some})
    matrix = texts.matrix.copy()
    matrix[4, 0] = np.nan
    with pytest.raises(ValueError, match="Movie 'm4' has a text vector with NaN or infinity"):
        fitted(graph, texts={"Movie": NodeEmbeddings(texts.nodes, matrix)})


def test_text_vectors_may_come_in_any_order(graph, engine):
    texts, order = word_vectors(graph)["Movie"], np.random.default_rng(0).permutation(80)
    turned = NodeEmbeddings(texts.nodes.take(order), texts.matrix[order])
    assert torch.equal(fitted(graph, texts={"Movie": turned}).item_vectors, engine.item_vectors)


# Other machines and encoders


@pytest.mark.gpu
def test_a_gpu_gives_the_scores_of_the_cpu(graph, engine, tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device: torch.cuda.is_available() is False")
    on_gpu = ColdStartEngine.fit(graph, texts=word_vectors(graph), device="cuda")
    assert on_gpu.item_vectors.device.type == "cuda"
    users, items = list(graph.users), list(graph.items)
    np.testing.assert_allclose(on_gpu.score(users, items), engine.score(users, items), atol=5e-3)
    assert len(on_gpu.recommend(users, 5)) == 300
    assert len(on_gpu.audience(items, 5)) == 400
    on_gpu.save(tmp_path / "model")
    back = ColdStartEngine.load(tmp_path / "model", device="cpu")
    np.testing.assert_allclose(back.score(users, items), on_gpu.score(users, items), atol=1e-5)


def test_the_default_encoder_reads_the_films(graph):
    config = EngineConfig(TrainConfig(max_dim=8))
    engine = ColdStartEngine.fit(graph, config, cache=None, device="cpu")
    assert engine.texts["Movie"].dim == 384
    users = [f"u{n}" for n in range(54)]
    scores = engine.score(users, COLD_ITEMS)
    alike = np.array([[taste(u) == taste(i) for i in COLD_ITEMS] for u in users])
    assert alike[np.arange(54), scores.argmax(axis=1)].mean() > 0.9


def test_progress_is_shown_only_when_asked_for(graph, capfd):
    fitted(graph)
    assert "training" not in capfd.readouterr().err
    fitted(graph, progress=True)
    assert "training" in capfd.readouterr().err


def test_what_a_notebook_shows_is_one_short_line(engine):
    report = engine.feedback([FeedbackEvent("u1", "m3", "like", time=1.0)])
    lists, why = engine.recommend(["u1", "u2"], 3), engine.explain("u1", "m3")
    delta = GraphDelta({"Movie": {"id": ["m1"]}}, removed_edges={RATED: ratings(("u1", "m2"))})
    shown = [
        (engine, "ColdStartEngine(users: 60, items: 80, interactions: "),
        (lists, "Recommendations(pairs: 6, users: 2, items: "),
        (why, "Explanation(user: 'u1', item: 'm3', score: "),
        (report, "FeedbackReport(counted: 1, ignored: 0, added: "),
        (Report((), 20), "Report(rows: 0, k: 20, segments: 0, scorers: 0, splits: 0)"),
        (Audit(()), "Audit(findings: 0, faults: 0)"),
        (engine.embed("User", ["u1"]), "NodeEmbeddings('User', nodes: 1, dim: "),
        (engine.graph.users, "Vocabulary('User', keys: 60 str)"),
        (engine.graph.interactions.select(np.arange(2)), "Edges(2, weight, time)"),
        (delta, "GraphDelta(nodes {Movie: 1}, removed edges {User-RATED-Movie: 1})"),
    ]
    for value, text in shown:
        assert repr(value).startswith(text)
        assert len(repr(value)) < 120
    assert str(lists).startswith("user  rank  item  score\nu1")
