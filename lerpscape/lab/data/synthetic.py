"""Synthetic data with a known optimum: the error or loss of the best model is a number in `facts`."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from lerpscape.lab.data.splits import DataSet, Split
from lerpscape.lab.options import Size


def gaussian_blobs(
    folder: str | Path | None = None,
    *,
    examples: Size = 1000,
    dimensions: Size = 10,
    distance: float = 4.0,
    seed: int = 0,
) -> DataSet:
    """Two classes, N(−μ, I) and N(μ, I) with ‖μ‖ = `distance` / 2 in a random direction, equally likely.

    The best classifier is the sign of μ·x; its error, `facts["bayes_error"]`, is Φ(−`distance` / 2). μ is
    `facts["direction"]` · `distance` / 2. There are as many test as training examples.

    >>> f"{gaussian_blobs(distance=2.0).facts['bayes_error']:.4f}"
    '0.1587'
    """
    generator = torch.Generator().manual_seed(seed)
    direction = torch.nn.functional.normalize(torch.randn(dimensions, generator=generator), dim=0)

    def split() -> Split:
        labels = torch.randint(2, (examples,), generator=generator)
        noise = torch.randn(examples, dimensions, generator=generator)
        return Split(noise + (labels - 0.5)[:, None] * distance * direction, labels, classes=2)

    facts = {"bayes_error": 0.5 * math.erfc(distance / 2 / math.sqrt(2)), "direction": direction}
    return DataSet("gaussian_blobs", split(), split(), "classification", (dimensions,), 2, facts=facts)


def teacher_classification(
    folder: str | Path | None = None,
    *,
    examples: Size = 1000,
    dimensions: Size = 10,
    classes: Size = 3,
    seed: int = 0,
) -> DataSet:
    """Normal inputs labelled by a linear teacher, y = argmax W x, which a linear model can classify without error.

    W is `facts["teacher"]`, (classes, dimensions), with standard normal entries; the Bayes error is 0.

    >>> data = teacher_classification()
    >>> inputs, labels = data.test.batch(slice(None))
    >>> bool(((inputs @ data.facts["teacher"].T).argmax(1) == labels).all())
    True
    """
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(classes, dimensions, generator=generator)

    def split() -> Split:
        inputs = torch.randn(examples, dimensions, generator=generator)
        return Split(inputs, (inputs @ teacher.T).argmax(1), classes=classes)

    facts = {"bayes_error": 0.0, "teacher": teacher}
    return DataSet("teacher_classification", split(), split(), "classification", (dimensions,), classes, facts=facts)


def teacher_regression(
    folder: str | Path | None = None,
    *,
    examples: Size = 1000,
    dimensions: Size = 10,
    outputs: Size = 1,
    noise: float = 0.0,
    seed: int = 0,
) -> DataSet:
    """Normal inputs and y = W x + `noise` · ε with ε ~ N(0, I): linear regression.

    W is `facts["teacher"]`, (outputs, dimensions), with entries N(0, 1/dimensions). The smallest possible expected
    squared error, summed over outputs, is outputs · noise², `facts["bayes_error"]`.

    >>> teacher_regression(outputs=2, noise=0.5).facts["bayes_error"]
    0.5
    """
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(outputs, dimensions, generator=generator) / math.sqrt(dimensions)

    def split() -> Split:
        inputs = torch.randn(examples, dimensions, generator=generator)
        return Split(inputs, inputs @ teacher.T + noise * torch.randn(examples, outputs, generator=generator))

    facts = {"bayes_error": outputs * noise**2, "teacher": teacher}
    return DataSet("teacher_regression", split(), split(), "regression", (dimensions,), outputs, facts=facts)


def markov_chain(
    folder: str | Path | None = None, *, examples: Size = 1000, length: Size = 35, vocabulary: Size = 8, seed: int = 0
) -> DataSet:
    """Sequences of a stationary Markov chain over tokens: a language with a known smallest loss.

    Each row of the transition matrix P, `facts["transitions"]`, is drawn uniformly from all distributions. The smallest
    possible expected cross-entropy per token is the entropy rate −Σ_i π_i Σ_j P_ij log P_ij (nats), with π P = π, in
    `facts["entropy_rate"]`. The first token of every sequence is drawn from π.

    >>> data = markov_chain(vocabulary=2)
    >>> data.train.inputs.shape, bool(0 < data.facts["entropy_rate"] < 0.6932)
    (torch.Size([1000, 35]), True)
    """
    generator = torch.Generator().manual_seed(seed)
    exponential = -torch.rand(vocabulary, vocabulary, generator=generator, dtype=torch.float64).clamp_min(1e-300).log()
    transitions = exponential / exponential.sum(1, keepdim=True)
    stationary = stationary_distribution(transitions)

    def split() -> Split:
        tokens = torch.empty(examples, length + 1, dtype=torch.int64)
        tokens[:, 0] = torch.multinomial(stationary, examples, replacement=True, generator=generator)
        for position in range(length):
            tokens[:, position + 1] = torch.multinomial(transitions[tokens[:, position]], 1, generator=generator)[:, 0]
        return Split(tokens[:, :-1], tokens[:, 1:])

    entropy = float(-(stationary[:, None] * transitions * transitions.log()).sum())
    facts = {"entropy_rate": entropy, "transitions": transitions}
    names = tuple(str(token) for token in range(vocabulary))
    return DataSet("markov_chain", split(), split(), "language", (), vocabulary, vocabulary=names, facts=facts)


def stationary_distribution(transitions: Tensor) -> Tensor:
    """π with π P = π and Σ π = 1, for an irreducible P.

    >>> stationary_distribution(torch.tensor([[0.5, 0.5], [1.0, 0.0]], dtype=torch.float64))
    tensor([0.6667, 0.3333], dtype=torch.float64)
    """
    size = len(transitions)
    system = torch.cat([transitions.T - torch.eye(size, dtype=transitions.dtype), torch.ones(1, size).to(transitions)])
    right = torch.zeros(size + 1, 1, dtype=transitions.dtype)
    right[-1] = 1
    solution: Tensor = torch.linalg.lstsq(system, right, driver="gelsd").solution
    return solution[:, 0].clamp_min(0)
