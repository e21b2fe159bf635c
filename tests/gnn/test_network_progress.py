from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from gnn.network_progress import progress_bar, tensorboard
from gnn.network_train import train_network
from kg.errors import DependencyError
from tests.gnn.tastes import tastes
from tests.gnn.test_network_train import SMALL


def test_the_bar_shows_epoch_loss_and_quality(capsys):
    train_network(tastes(), replace(SMALL, epochs=1), progress=progress_bar())
    shown = capsys.readouterr().err
    assert "epoch=0" in shown
    assert "loss=" in shown
    assert "ndcg=0." in shown
    assert "100%" in shown


def test_tensorboard_reads_what_was_logged(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = train_network(tastes(), replace(SMALL, epochs=2), progress=tensorboard(tmp_path))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    logged = [event.value for event in events.Scalars("epoch/ndcg")]
    assert logged == pytest.approx([epoch["ndcg"] for epoch in found.history])
    steps = [event.step for event in events.Scalars("step/loss")]
    assert steps == list(range(len(steps)))


def test_without_tensorboard_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(DependencyError, match=r"pip install '\.\[tensorboard\]' in"):
        tensorboard(tmp_path)
