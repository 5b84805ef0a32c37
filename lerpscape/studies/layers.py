"""Every layer of a network interpolated alone, with all others held at one end."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal, Unpack

import numpy as np
from torch import nn

from lerpscape.base.arrays import Floats
from lerpscape.base.results import Result
from lerpscape.networks.blocks import block_names, block_of
from lerpscape.networks.reading import Data
from lerpscape.paths.checkpoints import Checkpoint, Source
from lerpscape.paths.fitting_names import fitting_prefixes
from lerpscape.paths.line import Line, moving
from lerpscape.paths.matching import abbreviated
from lerpscape.paths.path import Rest
from lerpscape.studies.many_profiles import StudyOptions, how_of, profiles_of, rise_of


@dataclass(frozen=True, eq=False)
class Layerwise(Result):
    """Loss along the line on which only one layer moves, for every layer.

    `layers` are the modules that own parameters, or blocks, in the order of the checkpoint; `losses` has shape
    (layers, points), `max_rise` and `distance` (layers,). `together` is the loss when all layers move. `unmoved` are
    layers that are the same at both ends.
    """

    FORMAT = "lerpscape layerwise 1"
    PLOT = "studies.plot_layerwise"

    layers: tuple[str, ...]
    unmoved: tuple[str, ...]
    rest: Rest
    alphas: Floats
    losses: Floats = field(repr=False)
    together: Floats = field(repr=False)
    max_rise: Floats
    distance: Floats
    examples: int
    unit: str
    how: dict[str, Any] = field(repr=False)

    @property
    def summary(self) -> str:
        """The layers whose own line rises, in a sentence."""
        rising = [(rise, layer) for rise, layer in zip(self.max_rise, self.layers, strict=True) if not rise <= 0]
        held = f"all others held at the {self.rest}, {len(self.alphas)} points, n = {self.examples:,}"
        if not rising:
            return f"None of {len(self.layers)} layers rises on its own line ({held})."
        worst = sorted(rising, reverse=True)[:3]
        shown = ", ".join(f"{layer} by {rise:.4g}" for rise, layer in worst)
        return f"{len(rising)} of {len(self.layers)} layers rise on their own line, most {shown} {self.unit} ({held})."


def layers_of(start: Checkpoint, end: Checkpoint, blocks: Collection[str] = ()) -> tuple[list[str], list[str]]:
    """Modules that own parameters: those that move between the ends, and those that do not.

    With `blocks`, the block stands for all modules in it.

    >>> from lerpscape.paths.checkpoints import checkpoint
    >>> one, other = (checkpoint({"a.weight": torch.ones(1) * k, "b.weight": torch.ones(1)}) for k in (1, 2))
    >>> layers_of(one, other)
    (['a'], ['b'])
    """
    names = dict.fromkeys(_layer(name, blocks) for name in start.parameters)
    moves = {_layer(name, blocks) for name in moving(start, end)}
    return [name for name in names if name in moves], [name for name in names if name not in moves]


def layerwise(
    model: nn.Module,
    start: Source,
    end: Source,
    data: Data,
    *,
    rest: Rest,
    by: Literal["module", "block"] = "module",
    **options: Unpack[StudyOptions],
) -> Layerwise:
    """Measure the line on which one layer moves from start to end and all others are held at one end, for every layer.

    A layer is a module that owns parameters; its running statistics move with it.

    * `rest`: `"end"` asks what a layer's training contributes to the final network, `"start"` what it does alone.
    * `by`: a layer is a module that owns parameters; or a block, such as one of a transformer's, and every such module
      outside of them. With `rest="end"` that is the loss with one block after the other left out of the training.
    * `options`: see `StudyOptions`.

    Raises what `profile` raises.

    Sources: Vlaar & Frankle (2021); Zhang, Bengio & Singer (2019).

    >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    >>> ends = ({"0.weight": torch.full((1, 1), k), "1.weight": torch.full((1, 1), k)} for k in (0.0, 1.0))
    >>> x = torch.ones(3, 1)
    >>> layers = layerwise(model, *ends, [(x, x)], rest="end", loss="squared_error", alphas=3)
    >>> layers.layers, layers.losses[0]
    (('0', '1'), array([1.  , 0.25, 0.  ]))
    """
    line = Line(start, end)
    blocks = _blocks_on(line.start, model) if by == "block" else ()
    layers, unmoved = layers_of(line.start, line.end, blocks)
    alone = [line.only(*_owned(layer, line.start, blocks), rest=rest) for layer in layers]
    profiles = profiles_of(layerwise, model, [*alone, line], data, options)
    return Layerwise(
        layers=tuple(layers),
        unmoved=tuple(unmoved),
        rest=rest,
        alphas=profiles[0].alphas,
        losses=np.stack([profile.loss for profile in profiles[:-1]]),
        together=profiles[-1].loss,
        max_rise=np.array([rise_of(profile) for profile in profiles[:-1]]),
        distance=np.array([profile.distance for profile in profiles[:-1]]),
        examples=profiles[0].examples,
        unit=profiles[0].unit,
        how=how_of(profiles[0]) | {"line": line.describe(), "moved": abbreviated(layers)},
    )


def _owned(layer: str, of: Checkpoint, blocks: Collection[str]) -> list[str]:
    """Names of the tensors that belong to a module itself, or to a block."""
    return [name for name in of.tensors if _layer(name, blocks) == layer]


def _layer(name: str, blocks: Collection[str]) -> str:
    return block_of(name, blocks) or name.rpartition(".")[0]


def _blocks_on(start: Checkpoint, model: nn.Module) -> list[str]:
    """The model's blocks by their names in a checkpoint, which may stand under another prefix."""
    taken, prefix = fitting_prefixes(start.tensors, model.state_dict())
    return [taken + name.removeprefix(prefix) for name in block_names(model)]
