"""Mean and variance of each channel of a batch-norm layer's inputs, over many batches."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

# Elements of a layer's input that are squared at a time, so that the squares stay in the processor's cache.
IN_CACHE = 1 << 16


class PooledMoments:
    """Mean and biased variance of each channel over all values added, in float64.

    Source: Chan, Golub & LeVeque (1983), for merging the moments of two sets of values.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0

    def add(self, values: Tensor) -> None:
        """Add a batch of a layer's inputs; channels are in dimension 1."""
        self.merge(values.numel() // values.shape[1], *moments(values))

    def merge(self, count: int, variance: Tensor, mean: Tensor) -> None:
        """Add `count` values of each channel, given their biased variance and mean."""
        shift, total = mean - self.mean, self.count + count
        self.squares = self.squares + variance * count + shift * shift * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count = total

    def result(self) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of each channel."""
        return torch.as_tensor(self.mean), torch.as_tensor(self.squares / self.count)


class ExponentialMoments:
    """torch's running statistics: exponential averages of batch means and unbiased variances, from mean 0, variance 1.

    m ← (1 − momentum)·m + momentum·(batch mean), and the same for the variance.
    """

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        self.count = 0
        self.mean: Tensor | float = 0.0
        self.variance: Tensor | float = 1.0

    def add(self, values: Tensor) -> None:
        """Add a batch of a layer's inputs; channels are in dimension 1."""
        self.count = values.numel() // values.shape[1]
        variance, mean = moments(values)
        unbiased = variance * (self.count / max(self.count - 1, 1))
        self.mean = (1 - self.momentum) * self.mean + self.momentum * mean
        self.variance = (1 - self.momentum) * self.variance + self.momentum * unbiased

    def result(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of each channel."""
        return torch.as_tensor(self.mean), torch.as_tensor(self.variance)


def moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Biased variance and mean of each channel (dimension 1), in float64; both have shape (channels,).

    Short runs of values are summed in their own dtype, and the sums of the runs in float64. This is as accurate as
    converting every value to float64, and several times faster.
    """
    channels = values.shape[1]
    rows = values.movedim(1, -1).reshape(-1, channels)
    abreast = _divisor(len(rows), max(1024 // channels, 1))
    wide = rows.reshape(-1, abreast * channels)
    mean = wide.mean(0).view(abreast, channels).double().mean(0)
    shift = mean.to(values.dtype).repeat(abreast)
    # In pieces that stay in the processor's cache.
    pieces = torch.split(wide, max(IN_CACHE // (abreast * channels), 1))
    squares = torch.stack([(piece - shift).square().sum(0).double() for piece in pieces]).sum(0)
    return squares.view(abreast, channels).sum(0) / len(rows), mean


@cache
def _divisor(number: int, most: int) -> int:
    """The largest divisor of a number that is at most `most`."""
    return next(divisor for divisor in range(most, 0, -1) if number % divisor == 0)
