"""Several processes that train one network: each embeds a share of the batch, all see all of it.

Every process draws the same batch from the seed. Negatives from a process's own share alone would
be another objective, so the states are gathered with their gradient, and the sum over processes is
the gradient of the whole batch. The result is that of one process.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist

from kg.errors import SavedFileError


class FirstProcessError(RuntimeError):
    """The first process of several failed at what it does for all of them."""


def place() -> tuple[int, int]:
    """Number of this process and how many there are; ``(0, 1)`` without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def own_device() -> torch.device:
    """The GPU of this process, by the ``LOCAL_RANK`` that torchrun sets; without GPUs the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if (local := os.environ.get("LOCAL_RANK")) is None:
        return torch.device("cuda")
    return torch.device("cuda", int(local) % torch.cuda.device_count())


def share(rows: torch.Tensor) -> torch.Tensor:
    """The part of some rows that is this process's, of equal size to within one."""
    rank, world = place()
    return rows[_bounds(len(rows), world)[rank] : _bounds(len(rows), world)[rank + 1]]


def gathered(own: torch.Tensor, total: int) -> torch.Tensor:
    """What all processes made of their shares, in order, ``[total, channels]``, with gradient.

    Args:
        own: of this process's share, ``[len(share), channels]``.
        total: length of all shares together.
    """
    if place()[1] == 1:
        return own
    return _Gather.apply(own, total)  # pyright: ignore[reportReturnType]


def summed_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace every gradient by its sum over the processes; zero where a step reaches nothing.

    One process has the zeros, too, as an optimizer passes over a parameter without gradient.
    """
    every = list(parameters)
    for parameter in every:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    if place()[1] == 1:
        return
    gradients = [parameter.grad for parameter in every if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])  # one message, not hundreds
    dist.all_reduce(flat)
    parts = flat.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def summed(value: torch.Tensor) -> torch.Tensor:
    """A number added up over the processes, without gradient."""
    value = value.detach().clone()
    if place()[1] > 1:
        dist.all_reduce(value)
    return value


def told(value: torch.Tensor) -> torch.Tensor:
    """What the first process has, in all of them.

    Decisions are taken by one, as rounding may differ between devices.
    """
    if place()[1] > 1:
        dist.broadcast(value, 0)
    return value


def told_bytes(read: Callable[[], bytes | None], device: torch.device) -> bytes | None:
    """What the first process reads, in all of them; only that one needs the file.

    Args:
        read: returns the contents, or ``None`` where there is no file.
        device: that tensors can be sent from.

    Raises:
        SavedFileError: what the first process found is no use; every process raises alike.
        FirstProcessError: anything else went wrong there; so nobody waits for it.
    """
    rank, world = place()
    if world == 1:
        return read()
    kind, content, cause = _NOTHING, b"", None
    if rank == 0:
        try:
            if (found := read()) is not None:
                kind, content = _CONTENT, found
        except SavedFileError as error:
            kind, content, cause = _USELESS, str(error).encode(), error
        except Exception as error:
            told_of = f"the first process failed with {type(error).__name__}: {error}"
            kind, content, cause = _FAILED, told_of.encode(errors="replace"), error
    kind, size = told(torch.tensor([kind, len(content)], device=device)).tolist()
    values = torch.empty(size, dtype=torch.uint8)
    if rank == 0 and size:
        values = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    content = told(values.to(device)).cpu().numpy().tobytes()
    if kind in (_USELESS, _FAILED):
        raised = SavedFileError if kind == _USELESS else FirstProcessError
        raise raised(content.decode()) from cause
    return content if kind == _CONTENT else None


_NOTHING, _CONTENT, _USELESS, _FAILED = range(4)


def _bounds(total: int, world: int) -> list[int]:
    return [total * rank // world for rank in range(world + 1)]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: torch.Tensor, total: int) -> torch.Tensor:
        rank, world = place()
        bounds = _bounds(total, world)
        ctx.own = slice(bounds[rank], bounds[rank + 1])
        longest = -(-total // world)
        padded = own.new_zeros(longest, own.shape[1])
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in range(world)]
        dist.all_gather(parts, padded)
        lengths = (end - start for start, end in itertools.pairwise(bounds))
        return torch.cat([part[:n] for part, n in zip(parts, lengths, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # pyright: ignore
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient[ctx.own], None
