"""Batches of texts of like length: as large as memory allows and, on a CPU, side by side.

One batch on several threads of torch waits for the slowest of them after every operation, a
hundred times a batch, and what is small or runs in Python keeps one core busy at best. Batches
beside each other, each on one thread, wait for nothing; that is faster, most of all where other
programs use the cores, too.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

logger = logging.getLogger(__name__)

Forward = Callable[[np.ndarray], np.ndarray]
"""Rows of texts, longest first, to their vectors, float32 ``[number of rows, dim]``."""
Batch = tuple[np.ndarray, np.ndarray]
"""Rows of texts and their vectors."""


class Batches:
    """Runs texts through a model batch by batch, longest first; smaller ones when memory ends.

    Args:
        forward: the model.
        lengths: int ``[num_texts]``, tokens of each text.
        most_texts: in a batch, at least 1.
        most_tokens: in a batch, padding included; one text may have more.
        device: where the model is; its free memory is given back before a smaller batch is tried.
        name: of the model, for messages.
    """

    def __init__(
        self,
        forward: Forward,
        lengths: np.ndarray,
        most_texts: int,
        most_tokens: int,
        device: torch.device,
        name: str,
    ) -> None:
        self.forward = forward
        self.lengths = lengths
        self.most_texts = most_texts
        self.most_tokens = most_tokens
        self.device = device
        self.name = name

    def one_by_one(self) -> Iterator[Batch]:
        """Each batch after the other, on all of torch's threads."""
        for rows in self._planned():
            yield self._run(rows)

    def side_by_side(self) -> Iterator[Batch]:
        """As many batches at a time as torch has threads here, for a model on a CPU.

        The model must bear being called from several threads at once.
        """
        planned, num_threads = self._planned(), torch.get_num_threads()
        num_workers = min(num_threads, len(planned))
        if num_workers < 2:
            yield from map(self._run, planned)
            return
        ready = threading.Barrier(num_workers + 1)
        with ThreadPoolExecutor(num_workers, initializer=_alone, initargs=(ready,)) as pool:
            results = pool.map(self._run, planned)
            ready.wait()
            torch.set_num_threads(num_threads)  # for threads that others start from now on
            yield from results

    def _planned(self) -> list[np.ndarray]:
        """The rows of each batch, if all fit into memory."""
        order = np.argsort(-self.lengths, kind="stable")
        starts = [0]
        while starts[-1] < len(order):
            starts.append(starts[-1] + self._size(order[starts[-1] :]))
        return np.split(order, starts[1:-1]) if len(order) else []

    def _size(self, rows: np.ndarray) -> int:
        """How many of these rows, longest first, make a batch."""
        longest = max(int(self.lengths[rows[0]]), 1)
        return min(len(rows), max(1, min(self.most_texts, self.most_tokens // longest)))

    def _run(self, rows: np.ndarray) -> Batch:
        """The vectors of a planned batch, in parts where memory is short."""
        vectors, start = [], 0
        while start < len(rows):
            part = rows[start : start + self._size(rows[start:])]
            try:
                vectors.append(self.forward(part))
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                self._shrink(part, error)
                continue
            start += len(part)
        return rows, np.concatenate(vectors)

    def _shrink(self, rows: np.ndarray, error: RuntimeError) -> None:
        """Make batches half as large as this one, which was too large."""
        longest = int(self.lengths[rows[0]])
        if len(rows) == 1:
            raise MemoryError(
                f"{self.name}: one text of {longest} tokens does not fit into the memory "
                f"of {self.device}; lower max_tokens or use another device"
            ) from error
        self.most_texts = min(self.most_texts, len(rows) // 2)
        self.most_tokens = min(self.most_tokens, len(rows) * longest // 2)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        logger.info("%s: out of memory, batches are now of %d texts", self.name, self.most_texts)


def _alone(ready: threading.Barrier) -> None:
    """Give this thread of Python one thread of torch's."""
    torch.get_num_threads()  # the first call in a thread takes over the number of the process
    torch.set_num_threads(1)
    ready.wait()


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
