from dataclasses import replace

import numpy as np
import pytest

from coldstart.feedback import FeedbackEvent
from coldstart.refitting import refit
from tests.coldstart.test_feedback import DAY, NOW


@pytest.fixture(scope="module")
def heard(engine):
    """The engine after ten days of people liking films of their taste that nobody had rated."""
    rng = np.random.default_rng(0)
    events = []
    for n in range(120):
        user = int(rng.integers(0, 60))
        item = 72 + user % 4 + 4 * int(rng.integers(0, 2))
        events.append(FeedbackEvent(f"u{user}", f"m{item}", "like", NOW + n / 12 * DAY))
    return engine.feedback(events).engine


def test_a_refit_that_is_no_worse_is_promoted_and_says_what_changed(heard):
    # An old engine that has learnt the opposite of what people like: any new one is better.
    items = replace(
        heard.items,
        tables=[-t for t in heard.items.tables],
        reference=-heard.items.reference,
    )
    broken = replace(heard, items=items, item_vectors=-heard.item_vectors)
    found = refit(broken, device="cpu")
    assert found.promoted
    assert found.new_ndcg > found.old_ndcg
    assert found.engine is not broken
    assert found.changes["warm items"] == [72, 80]
    assert "promoted" in str(found)
    assert found.engine.heard == heard.heard


def test_a_refit_that_is_worse_on_the_last_days_is_not_promoted(heard, monkeypatch):
    from coldstart import ColdStartEngine

    fit = ColdStartEngine.fit

    def bad(graph, *args, **options):
        made = fit(graph, *args, **options)
        return replace(made, item_vectors=-made.item_vectors)

    monkeypatch.setattr(ColdStartEngine, "fit", bad)
    found = refit(heard, device="cpu")
    assert not found.promoted
    assert found.engine is heard
    assert found.difference < 0
    assert "kept the old engine" in found.reason


@pytest.mark.parametrize("days", [0, -1.0, "7", float("nan")])
def test_days_are_a_positive_number(engine, days):
    with pytest.raises(ValueError, match="days must be a positive number, got"):
        refit(engine, days=days)


def test_too_little_to_compare_on_keeps_the_old_engine(engine):
    events = [FeedbackEvent("u1", "m76", "like", NOW), FeedbackEvent("u2", "m76", "dislike", NOW)]
    found = refit(engine, events, device="cpu")
    assert (found.promoted, found.held_out) == (False, 1)
    assert "at least 10 are needed" in found.reason
    assert found.engine.heard  # what came with the call is heard all the same
    assert np.isnan(found.to_dict()["difference"])


def test_a_refit_without_any_feedback_says_so(engine):
    found = refit(engine, device="cpu")
    assert found.reason.startswith("kept the old engine: no feedback was heard, at least 10")


def test_only_the_last_days_are_held_out(heard):
    assert refit(heard, days=3, device="cpu").held_out < refit(heard, days=9, device="cpu").held_out
