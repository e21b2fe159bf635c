"""Adam for a few numbers, without what ``torch.optim`` brings.

The first optimiser of ``torch.optim`` in a process imports torch's compiler, which takes seconds:
longer than training a small engine.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


class Adam:
    """Steps down a gradient that are about as long as the learning rate, whatever the gradient's.

    Source: Kingma and Ba (2015), Adam: a method for stochastic optimization, algorithm 1, with its
    beta_1 = 0.9, beta_2 = 0.999 and epsilon = 1e-8.

    Args:
        values: changed in place by :meth:`step`; any shapes.
        rate: the learning rate, alpha.
    """

    def __init__(self, values: Sequence[torch.Tensor], rate: float) -> None:
        self.values, self.rate, self.steps = values, rate, 0
        self.means = [torch.zeros_like(value) for value in values]
        self.squares = [torch.zeros_like(value) for value in values]

    def step(self, gradients: Sequence[torch.Tensor]) -> None:
        """Change the values by one step.

        Args:
            gradients: of the loss by each of the values, of the same shapes.
        """
        self.steps += 1
        by_mean, by_square = 1 - 0.9**self.steps, 1 - 0.999**self.steps
        rows = zip(self.values, gradients, self.means, self.squares, strict=True)
        for value, gradient, mean, square in rows:
            mean.lerp_(gradient, 1 - 0.9)
            square.mul_(0.999).addcmul_(gradient, gradient, value=1 - 0.999)
            length = (square.sqrt() / by_square**0.5).add_(1e-8)
            value.addcdiv_(mean, length, value=-self.rate / by_mean)
