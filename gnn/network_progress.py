"""What :func:`gnn.network_train.train_network` tells while it runs, as a bar or to TensorBoard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gnn.parallel import place
from kg.errors import DependencyError, how_to_install

Told = Callable[[str, dict[str, float]], None]
"""Takes ``step`` or ``epoch`` and the numbers so far."""


def progress_bar() -> Told:
    """A live bar: the epoch, the loss of the last step, the last NDCG@20 on held-out nodes.

    Of several processes the first shows it.
    """
    from tqdm.auto import tqdm

    bar = tqdm(desc="graph network", unit="step", total=0, disable=place()[0] != 0)
    shown: dict[str, str] = {}

    def tell(kind: str, numbers: dict[str, float]) -> None:
        shown["epoch"] = str(int(numbers["epoch"]))
        shown["loss"] = f"{numbers['loss']:.4f}"
        if "ndcg" in numbers:
            shown["ndcg"] = f"{numbers['ndcg']:.4f}"
        if kind == "step":
            bar.total = int(numbers["of"])
            bar.update(int(numbers["number"]) + 1 - bar.n)
        bar.set_postfix(shown, refresh=kind == "epoch")

    return tell


def tensorboard(folder: str | Path) -> Told:
    """Scalars for TensorBoard: ``step/loss`` by step; ``epoch/loss``, ``/ndcg``, ``/seconds``.

    A training that goes on goes on counting. Of several processes the first writes.

    Args:
        folder: for the files of events; ``tensorboard --logdir`` shows it.

    Raises:
        DependencyError: tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise DependencyError(
            f"logs for TensorBoard need it: {how_to_install('tensorboard')}"
        ) from error
    if place()[0] != 0:
        return lambda _, __: None
    writer: Any = SummaryWriter(str(folder))

    def tell(kind: str, numbers: dict[str, float]) -> None:
        if kind == "step":
            writer.add_scalar("step/loss", numbers["loss"], int(numbers["number"]))
            return
        for name in sorted(numbers.keys() - {"epoch"}):
            writer.add_scalar(f"epoch/{name}", numbers[name], int(numbers["epoch"]))
        writer.flush()

    return tell
