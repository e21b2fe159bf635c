from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest

from coldstart import ColdStartEngine
from coldstart.feedback import EventLog, FeedbackConfig, FeedbackEvent, in_unit_of
from kg import GraphDelta
from kg.errors import GraphError, UnknownNodeError
from kg.toy import toy_graph
from tests.coldstart.toys import RATED, ratings

NOW = 2_000_000_000
DAY = 86_400


def event(kind, user="u58", item="m76", *, days=0.0, value=None):
    return FeedbackEvent(user, item, kind, NOW + days * DAY, value)


def weight_of(engine, user="u58", item="m76"):
    """Weight of an interaction, ``None`` where there is none."""
    edges = engine.graph.interactions
    pair = engine.graph.users.row(user), engine.graph.items.row(item)
    found = edges.weight[(edges.index[0] == pair[0]) & (edges.index[1] == pair[1])]
    return float(found[0]) if len(found) else None


def test_a_like_is_what_an_update_with_the_best_rating_is(engine):
    found = engine.feedback([event("like")])
    same = engine.update(GraphDelta(edges={RATED: ratings(("u58", "m76"))}))
    assert (found.counted, found.added, found.removed) == (1, 1, 0)
    for node_type in ("User", "Movie"):
        ours, theirs = (e.embeddings(node_type).matrix for e in (found.engine, same))
        np.testing.assert_array_equal(ours, theirs)


def test_it_counts_at_once_for_the_user_and_for_the_item(engine):
    after = engine.feedback([event("click"), event("click", item="m72")]).engine
    liked = engine.recommend(["u58"], 1, candidates=["m68"]).scores[0]
    assert after.recommend(["u58"], 1, candidates=["m68"]).scores[0] > liked  # of the same taste
    assert after.score(["u0"], ["m76"])[0, 0] != engine.score(["u0"], ["m76"])[0, 0]
    assert "m76" not in after.recommend(["u58"], 80).to_table()["item"].to_pylist()


@pytest.mark.parametrize(
    ("kinds", "weight"),
    [
        (["click"], 4),
        (["like"], 5),
        (["like", "dislike"], 1),
        (["dislike", "like"], 5),
        (["impression"], None),
        (["impression"] * 5, 1),
        (["impression"] * 5 + ["click"], None),
        (["like", "impression", "impression", "impression", "impression"], 5),
    ],
)
def test_a_pair_has_one_interaction_whatever_is_said_about_it(engine, kinds, weight):
    events = [event(kind, days=n / 1000) for n, kind in enumerate(kinds)]
    assert weight_of(engine.feedback(events).engine) == weight


def test_ratings_count_by_their_value_and_only_where_there_is_a_scale(engine):
    assert weight_of(engine.feedback([event("rating", value=3.5)]).engine) == 3.5
    bare = engine.graph.interactions
    graph = engine.graph.with_edges(RATED, replace(bare, weight=None))
    with pytest.raises(GraphError, match="no scale"):
        replace(engine, graph=graph).feedback([event("rating", value=3.5)])


def test_an_undo_takes_back_the_last_and_restores_what_was_there(engine):
    was = engine.graph.interactions
    user, item = engine.graph.users[int(was.index[0, 0])], engine.graph.items[int(was.index[1, 0])]
    disliked = engine.feedback([event("dislike", user, item)]).engine
    assert weight_of(disliked, user, item) == 1
    undone = disliked.feedback([event("undo", user, item, days=1)])
    assert weight_of(undone.engine, user, item) == was.weight[0]
    again = undone.engine.feedback([event("undo", user, item, days=2)])
    assert again.ignored[0][1] == "there is nothing to undo"


def test_clicks_fade_and_likes_do_not(engine):
    clicked = engine.feedback([event("click"), event("like", item="m72")]).engine
    assert weight_of(clicked.feedback([], now=NOW + 29 * DAY).engine) == 4
    later = clicked.feedback([], now=NOW + 31 * DAY)
    assert (later.removed, weight_of(later.engine)) == (1, None)
    assert weight_of(later.engine, item="m72") == 5
    moved = clicked.score(["u58"], ["m76"])[0, 0] - later.engine.score(["u58"], ["m76"])[0, 0]
    assert moved > 0


def test_a_flood_from_one_user_is_cut_off_and_told(engine):
    events = [event("click", item=f"m{n % 80}", days=n / 1e6) for n in range(500)]
    found = engine.feedback(events)
    assert found.counted == 120
    assert len(found.ignored) == 380
    assert "within an hour" in found.ignored[-1][1]
    next_day = found.engine.feedback([event("click", days=1), event("click", "u57")])
    assert next_day.counted == 2


def test_the_same_event_twice_counts_once(engine):
    first = engine.feedback([event("click")]).engine
    second = first.feedback([event("click")])
    assert second.ignored == ((event("click"), "it came before"),)
    assert second.engine.embeddings("User").matrix.tobytes() == (
        first.embeddings("User").matrix.tobytes()
    )


def test_what_was_disliked_is_not_recommended_where_interactions_have_no_weights(engine):
    graph = engine.graph
    schema = replace(graph.schema, positive_weight=None)
    liked = graph.interactions.select(graph.interactions.weight >= 4)
    graph = replace(graph, schema=schema).with_edges(RATED, replace(liked, weight=None, time=None))
    bare = ColdStartEngine.fit(graph, texts=engine.texts, device="cpu")
    best = bare.recommend(["u1"], 1).to_pylist()[0]["item"]
    after = bare.feedback([event("dislike", "u1", best)]).engine
    assert best not in after.recommend(["u1"], 80).to_table()["item"].to_pylist()
    assert "u1" not in after.audience([best], 60).to_table()["user"].to_pylist()
    undone = after.feedback([event("undo", "u1", best, days=1)]).engine
    assert undone.recommend(["u1"], 1).to_pylist()[0]["item"] == best


def test_what_was_heard_is_saved_and_leaves_with_its_user(engine, tmp_path):
    heard = engine.feedback([event("click"), event("dislike", "u57")]).engine
    heard.save(tmp_path / "model")
    loaded = ColdStartEngine.load(tmp_path / "model", device="cpu")
    assert loaded.heard == heard.heard
    assert weight_of(loaded.feedback([event("undo", days=1)]).engine) is None
    gone = loaded.update(GraphDelta(removed_nodes={"User": ["u57"]}))
    assert [e.user for e in gone.heard.events()] == ["u58"]
    assert "u57" not in gone.heard.unwanted


def test_the_log_gives_back_what_was_appended(tmp_path):
    events = [event("rating", value=4.0), event("undo", days=0.5)]
    log = EventLog(tmp_path / "events.log")
    log.append(events)
    assert list(log) == events


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "love"}, "expected one of"),
        ({"kind": "rating"}, "has a value"),
        ({"kind": "like", "value": 3.0}, "has a value"),
        ({"kind": "rating", "value": float("nan")}, "finite"),
        ({"kind": "click", "days": float("inf")}, "finite"),
    ],
)
def test_an_event_that_makes_no_sense_is_an_error(wrong, message):
    with pytest.raises(ValueError, match=message):
        event(**wrong)


def test_feedback_of_an_unknown_user_is_an_error_and_changes_nothing(engine):
    with pytest.raises(UnknownNodeError, match="nobody"):
        engine.feedback([event("like"), event("like", "nobody")])
    assert FeedbackConfig() == engine.config.feedback


@pytest.mark.parametrize("since", ["2020-01-01", None])
def test_a_day_is_in_the_unit_of_the_times(since):
    films = toy_graph(num_users=30, num_items=20)
    edges = films.interactions
    dates = np.datetime64(since or "1970-01-01", "us") + np.arange(len(edges))
    dated = films.with_edges(films.schema.interaction, replace(edges, time=dates.astype("int64")))
    microseconds = in_unit_of(FeedbackConfig(half_life=7.0), dated)
    assert microseconds == FeedbackConfig(half_life=7.0, day=86_400e6 if since else 86_400)
    assert in_unit_of(FeedbackConfig(day=24.0), dated).day == 24.0


def test_seconds_are_refused_where_times_are_dates(engine):
    graph = engine.graph
    dates = np.datetime64("2024-01-01", "us") + np.arange(len(graph.interactions))
    edges = replace(graph.interactions, time=dates.astype("int64"))
    dated = replace(engine, graph=graph.with_edges(graph.schema.interaction, edges))
    with pytest.raises(GraphError, match="in microseconds since 1970, and 1700000000 is"):
        dated.feedback([FeedbackEvent("u58", "m76", "like", 1_700_000_000)])
    rated = {"source": ["u58"], "target": ["m76"], "weight": [5.0], "time": [1_700_000_000]}
    with pytest.raises(GraphError, match="give dates, or seconds times 1,000,000"):
        dated.update(GraphDelta(edges={graph.schema.interaction: rated}))
    late = dated.update(
        GraphDelta(edges={graph.schema.interaction: rated | {"time": [2 * 10**15]}})
    )
    assert weight_of(late) == 5
    assert weight_of(dated.feedback([FeedbackEvent("u58", "m76", "like", 2e15)]).engine) == 5


def test_a_datetime_is_refused_with_what_to_give_instead():
    with pytest.raises(TypeError, match=r"got datetime.*\.timestamp\(\) in seconds"):
        FeedbackEvent("u58", "m76", "like", datetime(2024, 1, 1))


def test_an_undo_dated_before_the_like_takes_nothing_back(engine):
    liked = engine.feedback([event("like", days=2)]).engine
    late = liked.feedback([event("undo", days=1)])
    assert (late.counted, late.ignored[0][1]) == (0, "there is nothing to undo")
    assert weight_of(late.engine) == weight_of(liked)


@pytest.mark.parametrize("value", [1e300, -1e10, float("nan"), float("inf")])
def test_a_rating_that_single_precision_cannot_work_with_is_an_error(value):
    with pytest.raises(ValueError, match="'m76': a rating must be a finite number between"):
        event("rating", value=value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"half_life": 0.0}, "half_life must be above 0, got 0.0"),
        ({"most_per_hour": 0}, "most_per_hour must be at least 1, got 0"),
        ({"impression": 0.25}, "impression must be at most 0, got 0.25"),
        ({"negative_from": float("nan")}, "negative_from must be at most 0, got nan"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FeedbackConfig(**options)
