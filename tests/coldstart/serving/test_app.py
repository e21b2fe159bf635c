import json
import time

import numpy as np
import pytest
from starlette.testclient import TestClient

from coldstart.engine import ColdStartEngine, EngineConfig
from coldstart.journal import read_journal
from coldstart.serving.app import create_app, given_to
from coldstart.serving.durable import DurableEngine
from coldstart.serving.messages import UpsertRequest
from coldstart.serving.operations import upsert_of
from gnn.network import NetworkConfig
from kg import NodeEmbeddings
from kg.toy import toy_graph
from tests.coldstart.serving.conftest import KEY

JSON = {"Content-Type": "application/json"}
FILM = {
    "nodes": {"Movie": [{"id": "new", "title": "The orbit", "plot": "A rocket.", "year": 1990}]},
    "edges": [{"type": ["Movie", "HAS_GENRE", "Genre"], "source": "new", "target": "space"}],
    "vectors": {"Movie": {"keys": ["new"], "matrix": [[1.0] + [0.0] * 23]}},
}


def ask(client, path, **body):
    """The answer, which must be fine."""
    found = client.post(path, json=body)
    assert found.status_code == 200, found.text
    return found.json()


def test_lists_are_those_of_the_engine(client, engine):
    found = ask(client, "/recommend", users=["u1", "u58", "u1"], k=3)
    expected = engine.recommend(["u1", "u58"], 3).to_pylist()
    assert [one["of"] for one in found["lists"]] == ["u1", "u58", "u1"]
    assert found["lists"][0]["keys"] == [row["item"] for row in expected[:3]]
    assert found["lists"][2] == found["lists"][0]
    assert found["lists"][1]["scores"] == pytest.approx([row["score"] for row in expected[3:]])


def test_plain_lists_are_the_same_with_and_without_the_application(client, monkeypatch):
    body = json.dumps({"users": ["u1", "u58"], "k": 4, "exclude_seen": False}).encode()
    # In parts and without a length, it is left to the application.
    passed_on = client.post("/recommend", content=iter([body[:9], body[9:]]), headers=JSON)

    async def unreachable(scope, receive, send):
        raise AssertionError("the application was called")

    monkeypatch.setattr(client.app.app, "app", unreachable)
    quick = client.post("/recommend", content=body, headers=JSON)
    assert quick.status_code == passed_on.status_code == 200
    assert quick.json() == passed_on.json()
    assert quick.headers == passed_on.headers


@pytest.mark.parametrize("body", [b'{"users": ["u1"], "k": 0}', b'{"users": ["nobody"]}', b"{"])
def test_what_is_refused_reads_the_same_with_and_without_a_length(client, body):
    in_parts = client.post("/recommend", content=iter([body]), headers=JSON)
    whole = client.post("/recommend", content=body, headers=JSON)
    assert whole.status_code == in_parts.status_code >= 400
    assert whole.json() == in_parts.json()


def test_lists_take_candidates_properties_evidence_and_diversity(client, engine):
    found = ask(client, "/recommend", users=["u1"], candidates=["m77", "m78"], evidence=True)
    assert set(found["lists"][0]["keys"]) == {"m77", "m78"}
    assert 0 <= found["lists"][0]["evidence"][0]["confidence"] <= 1
    found = ask(client, "/recommend", users=["u1"], k=4, where={"year": [1960, 1961, 1962]})
    assert len(found["lists"][0]["keys"]) == 4
    assert ask(client, "/recommend", users=["u1"], diversity=0.7)["lists"][0]["price"] > 0
    found = ask(client, "/audience", items=["m78"], k=2)
    assert found["lists"][0]["keys"] == engine.audience(["m78"], 2).to_table()["user"].to_pylist()


def test_scores_ratings_and_explanations_are_those_of_the_engine(client, engine):
    pairs = {"users": ["u1", "u2"], "items": ["m1", "m78", "m3"]}
    for path, of in (("/score", engine.score), ("/rate", engine.rate)):
        found = ask(client, path, **pairs)["values"]
        np.testing.assert_allclose(found, of(*pairs.values()), atol=1e-5)
    found = ask(client, "/explain", user="u1", item="m77", paths=2)["explanation"]
    assert len(found["paths"]) == 2
    assert sum(p["share"] for p in found["parts"]) == pytest.approx(found["score"], abs=1e-5)


def one(key, dim):
    return {"keys": [key], "matrix": [[0.0] * dim]}


def test_vectors_go_by_the_names_they_had_at_fit_and_an_erasure_takes_them_along(
    graph, tmp_path, monkeypatch
):
    monkeypatch.setenv("KG_COLDSTART_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    posters = NodeEmbeddings(graph.items, rng.normal(size=(80, 3)))
    moods = NodeEmbeddings(graph.users, rng.normal(size=(60, 2)))
    vectors = {"Movie": {"poster": posters}, "User": {"mood": moods}}
    engine = ColdStartEngine.fit(graph, texts={}, vectors=vectors, device="cpu")
    engine.save(tmp_path / "model")
    durable = DurableEngine(tmp_path / "model", tmp_path / "state")
    vector = {"keys": ["a", "b"], "matrix": [[1.5, 0.25, -3.5], [0.0, 1.0, 2.0]]}
    body = {
        "nodes": {"Movie": [{"id": "a"}, {"id": "b"}, {"id": "c"}], "User": [{"id": "somebody"}]},
        "ready_vectors": {"Movie": {"poster": vector}, "User": {"mood": one("somebody", 2)}},
    }
    with TestClient(create_app(durable)) as client:
        ask(client, "/upsert", **body)
        now = durable.current.engine
        known = now.vectors["Movie"]["poster"]
        assert known.of(["a", "c"]).tolist() == [[1.5, 0.25, -3.5], [0, 0, 0]]
        drafted = now.embed_new("Movie", vectors={"poster": np.array(vector["matrix"][0])})
        np.testing.assert_allclose(now.embed("Movie", ["a"]).matrix[0], drafted, atol=1e-5)
        wrong = {"nodes": {"Movie": [{"id": "d"}]}}
        for ready, message in (
            ({"Movie": {"sound": one("d", 3)}}, "'sound' of Movie: the engine was fitted without"),
            ({"Movie": {"poster": one("d", 4)}}, "'poster' of Movie: expected 3 floats each, as"),
            ({"Movie": {"poster": one("m1", 3)}}, "'m1' is not among the nodes of this request"),
            ({"Film": {"poster": one("d", 3)}}, "ready_vectors: there are no 'Film' nodes"),
            ({"Movie": one("d", 3)}, "ready_vectors"),
        ):
            found = client.post("/upsert", json={**wrong, "ready_vectors": ready})
            assert (found.status_code, message in found.json()["error"]) == (422, True), found.text
        text = {"vectors": {"Movie": one("d", 3)}}
        found = client.post("/upsert", json=wrong | text)
        assert "expected any of [ready_vectors 'poster' of Movie: 3 floats; " in found.text
        ask(client, "/erase", type="Movie", key="b")
        ask(client, "/erase", type="User", key="somebody")
        (record, *_) = [r for path in durable._segments() for r in read_journal(path)]
        assert record["ready_vectors"]["Movie"]["poster"] == {
            "keys": ["a"],
            "matrix": [[1.5, 0.25, -3.5]],
        }
        assert record["ready_vectors"]["User"] == {}
        ask(client, "/reload")  # the whole journal once more, on the model
        again = durable.current.engine
        assert {"a", "c"} <= set(again.graph.items)
        assert "b" not in again.graph.items
        np.testing.assert_array_equal(again.vectors["Movie"]["poster"].of(["a"]), known.of(["a"]))
        fields = client.get("/openapi.json").json()["components"]["schemas"]["UpsertRequest"]
        assert "the name they had when the engine was" in str(fields["properties"]["ready_vectors"])


def test_the_next_request_sees_a_new_film_and_what_people_did(client):
    assert ask(client, "/upsert", **FILM) == {"version": 1, "result": {"nodes": 1, "edges": 1}}
    before = ask(client, "/recommend", users=["u58"], k=80)
    assert before["version"] == 1
    assert "new" in before["lists"][0]["keys"]
    event = {"user": "u58", "item": "new", "kind": "like"}
    told = ask(client, "/feedback", events=[event, {"user": "u1", "item": "m1", "kind": "undo"}])
    assert told["result"]["counted"] == 1
    assert told["result"]["ignored"] == [{"event": 1, "reason": "there is nothing to undo"}]
    after = ask(client, "/recommend", users=["u58"], k=80)
    assert "new" not in after["lists"][0]["keys"]
    assert ask(client, "/erase", type="Movie", key="new")["version"] == 3
    assert client.post("/score", json={"users": ["u1"], "items": ["new"]}).status_code == 404


def test_what_is_given_with_a_question_counts_for_its_answer_alone(client, engine):
    liked = list(engine.graph.schema.interaction)
    likes = [{"type": liked, "source": "visitor", "target": f"m{at}"} for at in (1, 5, 9)]
    likes = [like | {"weight": 5, "time": 990} for like in likes]
    given = {"nodes": {"User": [{"id": "visitor", "age": 30}]}, "edges": likes}
    found = ask(client, "/recommend", users=["visitor"], k=5, given=given)
    delta, texts, _ = upsert_of(engine.graph.schema, {"op": "upsert", **given})
    expected = engine.update(delta, texts=texts).recommend(["visitor"], 5).to_pylist()
    assert found["version"] == 0
    assert found["lists"][0]["keys"] == [row["item"] for row in expected]
    item = expected[0]["item"]
    pair = {"users": ["visitor"], "items": [item]}
    score = ask(client, "/score", **pair, given=given)["values"][0][0]
    assert score == pytest.approx(expected[0]["score"])
    told = ask(client, "/explain", user="visitor", item=item, given=given)["explanation"]
    assert told["score"] == pytest.approx(score)
    draft = ask(client, "/audience", items=["new"], k=3, given=FILM)
    assert len(draft["lists"][0]["keys"]) == 3
    for unknown in ({"users": ["visitor"], "items": ["m1"]}, {"users": ["u1"], "items": ["new"]}):
        assert client.post("/score", json=unknown).status_code == 404
    wrong = {"nodes": {"User": [{"id": "visitor", "agee": 30}]}}
    refused = client.post("/recommend", json={"users": ["visitor"], "given": wrong})
    assert refused.status_code == 422
    assert "agee" in refused.text
    forgetful = given_to(engine, UpsertRequest.model_validate(FILM))
    assert (forgetful.cache, len(forgetful.graph.items)) == (None, len(engine.graph.items) + 1)
    assert engine.cache is not None
    assert ask(client, "/upsert", **FILM)["version"] == 1  # nothing was written before


def test_an_engine_with_a_network_beside_propagation_is_served(tmp_path):
    network = NetworkConfig(hidden_channels=8, dim=4, epochs=1, batch_size=256)
    config = EngineConfig(graph_encoder="propagation+sage", network=network, network_folds=2)
    engine = ColdStartEngine.fit(toy_graph(num_cold_items=4), config, texts={})
    engine.save(tmp_path / "model")
    film = {"nodes": FILM["nodes"], "edges": FILM["edges"]}
    with TestClient(create_app(DurableEngine(tmp_path / "model", tmp_path / "state"))) as client:
        ask(client, "/upsert", **film)
        served = ask(client, "/recommend", users=["u1"], k=80)
    delta, _, _ = upsert_of(engine.graph.schema, film)
    expected = engine.update(delta).recommend(["u1"], 80)
    assert served["lists"][0]["keys"] == [row["item"] for row in expected.to_pylist()]
    assert "new" in served["lists"][0]["keys"]
    again = DurableEngine(tmp_path / "model", tmp_path / "state")
    found = again.current.engine.recommend(["u1"], 80)
    again.close()
    assert found.item_rows.tolist() == expected.item_rows.tolist()
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_allclose(
        found.evidence["part_sage"], expected.evidence["part_sage"], atol=1e-5
    )


def test_a_new_model_is_taken_on_request(client, engine, model):
    from kg import GraphDelta

    engine.update(GraphDelta(removed_nodes={"Movie": ["m5"]})).save(model)
    assert client.post("/reload").status_code == 200
    assert client.post("/score", json={"users": ["u1"], "items": ["m5"]}).status_code == 404
    (model / "manifest.json").write_text('{"checksum": "x"}')
    found = client.post("/reload")
    assert found.status_code == 409
    assert "save it again" in found.json()["error"]


def test_a_refit_is_taken_if_it_is_no_worse_on_the_last_days(client):
    event = {"kind": "like", "time": time.time()}
    events = [event | {"user": f"u{n}", "item": f"m{72 + n % 8}"} for n in range(40)]
    found = ask(client, "/refit")["result"]
    assert (found["promoted"], found["held_out"], found["old_ndcg"]) == (False, 0, None)
    ask(client, "/feedback", events=events)
    found = ask(client, "/refit", tolerance=1)
    assert found["result"]["promoted"]
    assert found["result"]["changes"]["warm items"] == [72, 80]
    assert found["version"] == 1
    after = ask(client, "/recommend", users=["u0"], k=80)["lists"][0]["keys"]
    assert "m72" not in after


def test_an_event_in_milliseconds_is_refused_and_nobody_else_is_forgotten(client):
    now = time.time()
    click = {"user": "u0", "item": "m1", "kind": "click"}
    wrong = {"user": "u1", "item": "m2", "kind": "click", "time": now * 1000}
    found = client.post("/feedback", json={"events": [click, wrong]})
    assert found.status_code == 422
    assert "event 1: its time" in found.json()["error"]
    assert ask(client, "/feedback", events=[click])["result"]["counted"] == 1


def test_a_click_that_is_sent_again_with_its_key_counts_once(client):
    click = {"events": [{"user": "u0", "item": "m1", "kind": "click"}]}
    first, again = (
        client.post("/feedback", json=click, headers={"Idempotency-Key": "a"}) for _ in range(2)
    )
    assert first.status_code == 200
    assert again.json() == first.json()
    assert client.get("/ready").json()["version"] == 1
    click["events"][0]["item"] = "m2"
    other = client.post("/feedback", json=click, headers={"Idempotency-Key": "a"})
    assert (other.status_code, "with other content" in other.json()["error"]) == (422, True)
    assert client.post("/feedback", json=click).json()["version"] == 2


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/upsert", {"nodes": {"Movie": [{}]}}, 422, "row 0 has no properties"),
        ("/upsert", {}, 422, "the request changes nothing; give nodes, edges or remove_edges"),
        ("/upsert", {"nodes": {"Movie": []}}, 422, "the request changes nothing"),
        (
            "/upsert",
            {"vectors": {"Movie": {"keys": ["m0"], "matrix": [[0.0] * 24]}}},
            422,
            "'m0' is not among the nodes of this request",
        ),
        ("/recommend", {"users": ["nobody"]}, 404, "'nobody' is not among the 60 known"),
        ("/recommend", {"users": ["u1", 5]}, 404, "keys of User are str"),
        ("/recommend", {"users": []}, 422, "users: List should have at least 1"),
        ("/recommend", {"users": ["u1"], "k": 0}, 422, "k: Input should be greater"),
        ("/recommend", {"users": ["u1"], "k": 10**30}, 422, "k: "),
        ("/recommend", {"users": ["u1"], "k": "ten"}, 422, "k: Input should be a valid integer"),
        ("/recommend", {"users": "u1"}, 422, 'users: Input should be a valid list, got "u1"'),
        (
            "/recommend",
            {"users": ["u1"], "where": {"colour": "red"}},
            422,
            "where= names 'colour', and a Movie has no such property, only id, title, plot, year",
        ),
        ("/recommend", {"users": ["u1"], "where": {"year": [1, "a", None]}}, 422, ""),
        ("/recommend", {"users": ["u1"], "sort": "best"}, 422, "sort: there is no such field"),
        ("/recommend", {"users": ["\ud800"]}, 422, "users"),
        ("/recommend", {"users": ["'; MATCH (n) DETACH DELETE n //"]}, 404, "not among"),
        ("/score", {"users": ["u1"] * 1000, "items": ["m1"] * 1000}, 422, "100000 pairs"),
        ("/upsert", {"nodes": {"Movie": [{"title": "x"}]}}, 422, "expected the columns ['id']"),
        ("/upsert", {"nodes": {"Movie": [{"id": "a", "year": "soon"}]}}, 422, "year"),
        (
            "/upsert",
            {"edges": [{"type": ["User", "RATED"], "source": "u1", "target": "m1"}]},
            422,
            "",
        ),
        (
            "/upsert",
            {"edges": [{"type": ["User", "OWNS", "Movie"], "source": "u1", "target": "m1"}]},
            422,
            "edges[0]: there are no User-OWNS-Movie edges, only Movie-HAS_GENRE-Genre, ",
        ),
        (
            "/upsert",
            {"nodes": {"Film": [{"id": "new"}]}},
            422,
            "nodes: there are no 'Film' nodes, only City, Genre, Movie, User; use one of these",
        ),
        (
            "/upsert",
            {"nodes": {"Movie": [{"id": "new", "titel": "x"}]}},
            422,
            "nodes: a Movie has no property 'titel', only id, plot, title, year (its "
            "key is id); use one of these",
        ),
        (
            "/upsert",
            {"vectors": {"Film": {"keys": ["new"], "matrix": [[0.0] * 24]}}},
            422,
            "vectors: there are no 'Film' nodes",
        ),
        (
            "/upsert",
            {"nodes": {"Genre": [{"id": "a"}]}, "vectors": {"Genre": one("a", 24)}},
            422,
            "vectors of Genre: the engine was fitted without these; expected any of [vectors of "
            "Movie: 24 floats]; leave them out",
        ),
        (
            "/upsert",
            {"nodes": {"Movie": [{"id": "a"}]}, "vectors": {"Movie": one("a", 25)}},
            422,
            "vectors of Movie: expected 24 floats each, as in training, got 25",
        ),
        (
            "/upsert",
            {
                "nodes": {"Movie": [{"id": "a"}]},
                "ready_vectors": {"Movie": {"poster": one("a", 2)}},
            },
            422,
            "ready_vectors 'poster' of Movie: the engine was fitted without these; expected any of",
        ),
        ("/feedback", {"events": [{"user": "u1", "item": "m1", "kind": "love"}]}, 422, "kind"),
        ("/feedback", {"events": [{"user": "u1", "item": "m1", "kind": "rating"}]}, 422, "value"),
        ("/erase", {"type": "Genre", "key": "space"}, 422, "only 'User' and 'Movie'"),
        ("/erase", {"type": "User", "key": "nobody"}, 404, "not among"),
    ],
)
def test_what_is_wrong_is_told(client, path, body, status, message):
    found = client.post(path, content=json.dumps(body).encode(), headers=JSON)
    assert (found.status_code, message in found.json()["error"]) == (status, True), found.text
    assert client.get("/ready").json()["version"] == 0


def test_a_body_that_is_no_json_or_too_large_is_refused(client):
    assert client.post("/recommend", content=b'{"users": [', headers=JSON).status_code == 400
    bad = client.post("/recommend", content=b"{bad", headers=JSON)
    assert bad.status_code == 400
    assert bad.json()["error"].startswith("the body is not valid JSON: Expecting property name")
    assert bad.json()["error"].endswith("at character 1")
    assert client.post("/recommend", content=b"[" * 100_000, headers=JSON).status_code == 400
    large = client.post("/recommend", content=b" " * 10_000_000, headers=JSON)
    assert large.status_code == 413
    many = (b" " * 100_000 for _ in range(100))
    streamed = client.post("/recommend", content=many, headers=JSON)
    assert streamed.status_code == 413
    assert "larger than 2000000 bytes" in streamed.json()["error"]


def test_without_the_key_only_health_is_told(client):
    for headers in ({"X-API-Key": "wrong"}, {"X-API-Key": ""}):
        assert client.post("/recommend", json={"users": ["u1"]}, headers=headers).status_code == 401
    assert client.get("/metrics", headers={"X-API-Key": "wrong"}).status_code == 401
    bearer = {"X-API-Key": "other"}
    assert client.post("/recommend", json={"users": ["u1"]}, headers=bearer).status_code == 200
    for path in ("/health", "/ready", "/", "/openapi.json"):
        assert client.get(path, headers={"X-API-Key": "wrong"}).status_code == 200


def test_a_bearer_token_is_a_key_too(client):
    client.headers.pop("X-API-Key")
    told = {"Authorization": f"Bearer {KEY['X-API-Key']}"}
    assert client.get("/graph", headers=told).json()["user"] == "User"
    assert client.get("/graph").status_code == 401


def test_prometheus_is_told_counts_times_and_sizes(client):
    ask(client, "/recommend", users=["u1"])
    client.post("/recommend", json={"users": ["nobody"]})
    client.get("/no/such/path")
    told = client.get("/metrics").text
    assert 'coldstart_requests_total{path="/recommend",status="200"} 1.0' in told
    assert 'coldstart_requests_total{path="/recommend",status="404"} 1.0' in told
    assert 'coldstart_requests_total{path="other",status="404"} 1.0' in told
    assert 'coldstart_request_seconds_count{path="/recommend"} 2.0' in told
    assert 'coldstart_nodes{type="Movie"} 80.0' in told


def test_an_error_inside_is_told_by_a_number_only(client, monkeypatch, caplog):
    from coldstart.engine import ColdStartEngine

    def broken(*args, **options):
        raise ZeroDivisionError("the secret inside")

    monkeypatch.setattr(ColdStartEngine, "audience", broken)
    found = client.post("/audience", json={"items": ["m1"]})
    assert found.status_code == 500
    assert "secret" not in found.text
    assert "Traceback" not in found.text
    assert found.json()["error"].split()[-1] in caplog.text
