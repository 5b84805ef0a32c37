"""Initialisations by name and scale, the NTK parametrisation, and which layers have a bias."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lerpscape.base.errors import ConfigError, explain
from lerpscape.base.names import unknown_name

INITIALISATIONS = ("default", "xavier", "kaiming", "sparse")
BIASES = ("all", "last", "none")
SPARSE_CONNECTIONS = 15  # incoming connections of a unit with init="sparse" (Martens 2010)
NTK_BIAS = 0.1


class NTKLinear(nn.Module):
    """The NTK parametrisation x ↦ W x / √inputs + 0.1 b, with every entry of W and b from N(0, 1).

    The factor 0.1 is β in Jacot, Gabriel & Hongler (2018).

    >>> NTKLinear(4, 3)(torch.zeros(2, 4)).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        bias: bool = True,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.scale = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, generator=generator, dtype=dtype))
        drawn = torch.randn(outputs, generator=generator, dtype=dtype) if bias else None
        self.bias = None if drawn is None else nn.Parameter(drawn)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of shape (examples, outputs)."""
        product = F.linear(x * self.scale, self.weight)
        return product if self.bias is None else product + NTK_BIAS * self.bias


class AsymmetricLinear(nn.Linear):
    """A linear layer whose units cannot be exchanged: `fixed` incoming weights of each are constants from N(0, scale²).

    Which ones, and their values, follow from the shape of the layer and its `number` in the network, so that all
    networks of one architecture have the same. They are no parameters: the entries of `weight` in their places are 0
    and have no effect. Source: Lim et al. (2024), W-asymmetric networks.

    Raises `ConfigError` for more constants than inputs.

    >>> layer = AsymmetricLinear(8, 3, fixed=2, scale=1.0, number=0)
    >>> layer.constant.sum(1).tolist(), float(layer.weight.detach()[layer.constant].abs().max())
    ([2, 2, 2], 0.0)
    """

    constant: Tensor
    values: Tensor

    def __init__(self, inputs: int, outputs: int, *, fixed: int, scale: float, number: int) -> None:
        super().__init__(inputs, outputs)
        if not 0 < fixed < inputs or not 0 < scale < math.inf:
            raise ConfigError(
                explain(
                    expected=f"fixed_entries from 1 to {inputs - 1}, fewer than the inputs, and fixed_scale > 0.",
                    got=f"{fixed} and {scale}.",
                    hint="fixed_entries = 8 leaves most entries of a wide layer free.",
                )
            )
        generator = torch.Generator().manual_seed(number)
        order = torch.rand(outputs, inputs, generator=generator, device="cpu").argsort(dim=1)
        values = scale * torch.randn(outputs, inputs, generator=generator, device="cpu")
        # Not persistent: a checkpoint holds what training moves.
        self.register_buffer("constant", order < fixed, persistent=False)
        self.register_buffer("values", values, persistent=False)
        self.clear()

    def clear(self) -> None:
        """Set the entries that have no effect to 0."""
        if not self.weight.is_meta:
            with torch.no_grad():
                self.weight.masked_fill_(self.constant, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of shape (examples, outputs)."""
        return F.linear(x, torch.where(self.constant, self.values.to(self.weight.dtype), self.weight), self.bias)


def weighted_layers(model: nn.Module) -> list[nn.Module]:
    """All linear and convolutional layers, in the order of `model.modules()`.

    >>> weighted_layers(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    [Linear(in_features=2, out_features=2, bias=True)]
    """
    return [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d | NTKLinear)]


def keep_biases(model: nn.Module, which: str) -> None:
    """Keep the biases of all linear and convolutional layers, of the last only, or none (Wang, Wang, Zhou & Ge 2022).

    The shift of a batch-norm layer is not affected.

    Raises `ConfigError` for another value of `which`.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    >>> keep_biases(model, "last")
    >>> [name for name, _ in model.named_parameters()]
    ['0.weight', '1.weight', '1.bias']
    """
    if which not in BIASES:
        raise ConfigError(unknown_name("biases", which, BIASES))
    layers = weighted_layers(model)
    without = {"all": [], "last": layers[:-1], "none": layers}[which]
    for layer in without:
        layer.register_parameter("bias", None)


def initialise(model: nn.Module, init: str, scale: float = 1.0) -> None:
    """Redraw the weights of every linear and convolutional layer, then multiply weights and biases by `scale`.

    * `default`: torch's own, weights and biases from U(−1/√n, 1/√n) with n incoming connections; not redrawn.
    * `xavier`: weights from U(−a, a), a = √(6 / (incoming + outgoing)), biases 0 (Glorot & Bengio 2010).
    * `kaiming`: weights from N(0, 2/n), biases 0 (He et al. 2015).
    * `sparse`: 15 incoming weights of each unit from N(0, 1), all others and the biases 0 (Martens 2010).

    Raises `ConfigError` for another name, a scale that is not positive, and a name other than `default` for layers in
    NTK parametrisation, which have their own initialisation.

    >>> layer = nn.Linear(40, 2)
    >>> initialise(layer, "sparse")
    >>> (layer.weight != 0).sum(1).tolist(), layer.bias.tolist()
    ([15, 15], [0.0, 0.0])
    """
    if init not in INITIALISATIONS:
        raise ConfigError(unknown_name("init", init, INITIALISATIONS))
    if not 0 < scale < math.inf:
        raise ConfigError(
            explain(expected="init_scale > 0.", got=f"{scale}.", hint="1 leaves the initialisation as it is.")
        )
    layers = weighted_layers(model)
    if init != "default" and any(isinstance(layer, NTKLinear) for layer in layers):
        raise ConfigError(
            explain(
                expected='init="default" for parametrization="ntk", which draws all weights from N(0, 1).',
                got=f"init={init!r}.",
                hint='Leave init out, or use parametrization="standard".',
            )
        )
    with torch.no_grad():
        for layer in layers:
            weight, bias = layer.weight, layer.bias
            assert isinstance(weight, Tensor)
            if init == "xavier":
                nn.init.xavier_uniform_(weight)
            elif init == "kaiming":
                nn.init.kaiming_normal_(weight, nonlinearity="relu")
            elif init == "sparse":
                _sparse(weight)
            weight.mul_(scale)
            if isinstance(layer, AsymmetricLinear):
                layer.clear()
            if isinstance(bias, Tensor):
                if init == "default":
                    bias.mul_(scale)
                else:
                    bias.zero_()


def _sparse(weight: Tensor) -> None:
    incoming = weight.flatten(1)
    connected = torch.rand(incoming.shape).argsort(dim=1)[:, :SPARSE_CONNECTIONS]
    drawn = torch.zeros_like(incoming).scatter_(1, connected, torch.randn(connected.shape))
    weight.copy_(drawn.view_as(weight))
