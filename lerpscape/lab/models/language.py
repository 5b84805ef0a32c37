"""Language models: from tokens (examples, positions) to logits (examples, positions, vocabulary) of the next token."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lerpscape.base.errors import ConfigError, explain
from lerpscape.lab.models._shapes import sequence_shape
from lerpscape.lab.options import Size

INIT_BOUND = 0.1  # embeddings and the last layer are drawn from U(−0.1, 0.1)


class LSTMModel(nn.Module):
    """Embedding, LSTM, linear layer; every sequence starts from state 0, so the order of examples does not matter."""

    def __init__(self, vocabulary: int, width: int, depth: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.cells = nn.LSTM(width, width, depth, batch_first=True)
        self.read = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of shape (examples, positions, vocabulary)."""
        return self.read(self.cells(self.embedding(tokens))[0])  # type: ignore[no-any-return]


class CausalAttention(nn.Module):
    """Multi-head attention softmax(Q Kᵀ / √d) V over the current and earlier positions.

    Does not use torch's fused attention, which has no forward-mode derivative on the CPU and is not faster at the
    lengths of these models.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = 1 / math.sqrt(width // heads)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs shaped like `x`, (examples, positions, width)."""
        split = self.queries_keys_values(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        queries, keys, values = split[0], split[1], split[2]
        scores = queries @ keys.transpose(2, 3) * self.scale
        future = torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1)
        weights = scores.masked_fill(future, -math.inf).softmax(3)
        return self.mix((weights @ values).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class TransformerLayer(nn.Module):
    """Attention and a two-layer network, each added to its input and normalised afterwards (Vaswani et al. 2017)."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention = CausalAttention(width, heads)
        self.first_norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, hidden)
        self.narrow = nn.Linear(hidden, width)
        self.second_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs shaped like `x`."""
        x = self.first_norm(x + self.attention(x))
        return self.second_norm(x + self.narrow(F.relu(self.widen(x))))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """Embedding times √width plus sines and cosines of the position, Transformer layers, linear layer."""

    frequencies: Tensor

    def __init__(self, vocabulary: int, width: int, depth: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.scale = math.sqrt(width)
        half = torch.arange(0, width, 2, dtype=torch.float32) / width
        self.register_buffer("frequencies", 10_000.0**-half, persistent=False)
        self.layers = nn.Sequential(*(TransformerLayer(width, heads, hidden) for _ in range(depth)))
        self.read = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of shape (examples, positions, vocabulary)."""
        position = torch.ones_like(tokens[:1]).cumsum(1) - 1
        angles = position.unsqueeze(2) * self.frequencies
        signal = torch.stack([angles.sin(), angles.cos()], dim=3).flatten(2)
        return self.read(self.layers(self.embedding(tokens) * self.scale + signal))  # type: ignore[no-any-return]


def lstm(inputs: Sequence[int], outputs: int, *, width: Size = 200, depth: Size = 2) -> nn.Module:
    """An LSTM of `depth` layers (Hochreiter & Schmidhuber 1997) as a language model of `outputs` tokens.

    Parameters: V w for the embedding, 8 w (w + 1) for each layer, V (w + 1) for the last. torch's fused LSTM kernel has
    no forward-mode derivative on the CPU: under `torch.func.jvp` this model raises `NotImplementedError`, whereas
    `lerpscape.profile` and `gauss_length` switch the kernel off and differentiate the model.

    Raises `ConfigError` for examples that are not sequences of tokens.

    >>> lstm((), 50, width=8)(torch.zeros(3, 5, dtype=torch.long)).shape
    torch.Size([3, 5, 50])
    """
    sequence_shape(inputs, "lstm")
    model = LSTMModel(outputs, width, depth)
    _initialise(model.embedding, model.read)
    return model


def transformer(
    inputs: Sequence[int], outputs: int, *, width: Size = 200, depth: Size = 2, heads: Size = 2, hidden: Size = 200
) -> nn.Module:
    """A causal Transformer of `depth` layers (Vaswani et al. 2017) as a language model of `outputs` tokens.

    Parameters: V w for the embedding, 4 w (w + 1) + h (w + 1) + w (h + 1) + 4 w for each layer, V (w + 1) for the last;
    h is `hidden`, the width inside a layer's two-layer network. Sequences may have any length.

    Raises `ConfigError` for examples that are not sequences of tokens, and for a width that is odd or not a multiple of
    `heads`.

    >>> transformer((), 50, width=8)(torch.zeros(3, 5, dtype=torch.long)).shape
    torch.Size([3, 5, 50])
    """
    sequence_shape(inputs, "transformer")
    if width % heads or width % 2:
        raise ConfigError(
            explain(
                expected="an even width that is a multiple of heads.",
                got=f"width={width}, heads={heads}.",
                hint="Use width=200 and heads=2, for example.",
            )
        )
    model = Transformer(outputs, width, depth, heads, hidden)
    _initialise(model.embedding, model.read)
    return model


def _initialise(embedding: nn.Embedding, read: nn.Linear) -> None:
    nn.init.uniform_(embedding.weight, -INIT_BOUND, INIT_BOUND)
    nn.init.uniform_(read.weight, -INIT_BOUND, INIT_BOUND)
    nn.init.zeros_(read.bias)
