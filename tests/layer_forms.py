"""Every kind of layer in each of its written forms: as a module, as a function, as a method."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lerpscape.networks import layer_kinds
from lerpscape.networks.layer_kinds import KINDS, Kind, settings_of_layer

# The arguments that a layer is made with, for a tensor of this shape; a layer that is not named is made with none.
SHAPE = (5, 4)
MADE_WITH = {
    "Softmax": {"dim": 1},
    "LogSoftmax": {"dim": 1},
    "Hardtanh": {"min_val": -0.4, "max_val": 0.7},
    "LeakyReLU": {"negative_slope": 0.3},
    "ELU": {"alpha": 1.4},
    "CELU": {"alpha": 0.7},
    "Softplus": {"beta": 1.5, "threshold": 15.0},
    "GELU": {"approximate": "none"},
    "LayerNorm": {"normalized_shape": (4,)},
    "RMSNorm": {"normalized_shape": (4,), "eps": 1e-3},
    "GroupNorm": {"num_groups": 2, "num_channels": 4},
}
ELEMENTWISE = [kind for kind in KINDS if kind.elementwise and kind.modules and kind.name != "Dropout"]
ACTIVATIONS = [kind for kind in ELEMENTWISE if kind.functions]
NORMS = [layer_kinds.LAYER_NORM, layer_kinds.GROUP_NORM, layer_kinds.RMS_NORM]
SOFTMAXES = [layer_kinds.SOFTMAX, layer_kinds.LOG_SOFTMAX]


def layer_of(kind: Kind) -> nn.Module:
    return kind.modules[0](**MADE_WITH.get(kind.name, {}))


class AsFunction(nn.Module):
    """A kind as one of its functions or methods, with the settings of its layer."""

    def __init__(self, kind: Kind, form: object) -> None:
        super().__init__()
        self.kind, self.form = kind, form
        self.layer = layer_of(kind)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        settings = {k: v for k, v in settings_of_layer(self.layer, self.kind).items() if k != "inplace"}
        if isinstance(self.form, str):
            return getattr(x, self.form)(**settings)
        return self.form(x, **settings)


def forms(kinds: list[Kind], *, in_place: bool = False) -> list[object]:
    """Every written form of these kinds, as a test's parameter (kind, form)."""
    return [
        pytest.param(kind, form, id=f"{kind.name}-{getattr(form, '__name__', form)}")
        for kind in kinds
        for form in (kind.modules[0], *kind.functions, *kind.methods)
        if in_place or not getattr(form, "__name__", str(form)).endswith("_")
    ]


def written(kind: Kind, form: object) -> nn.Module:
    return layer_of(kind) if form is kind.modules[0] else AsFunction(kind, form)
