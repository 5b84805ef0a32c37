"""Measurements between networks that a sweep can ask for by name: of all of a group, or of every two of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import Parameter
from itertools import combinations
from typing import Any, TypeVar

import numpy as np
from safetensors.torch import save

from lerpscape.base.results import Result
from lerpscape.geometry.similarity import FeatureSimilarity, feature_similarity
from lerpscape.lab.measure_config import CompareConfig
from lerpscape.lab.measurements import ANSWERED, WITHHELD, Reading, parameters
from lerpscape.lab.subjects import Subject
from lerpscape.networks.batch_norm import BatchNormPolicy, BatchStatistics, Recalibrate
from lerpscape.paths.line import Line
from lerpscape.profiles.profile import profile
from lerpscape.profiles.results import Profile
from lerpscape.studies.connections import connect
from lerpscape.studies.many_profiles import rise_of
from lerpscape.studies.pairs import Pairwise, pairwise

Member = TypeVar("Member")
INITIAL, TRAINED = "init", "opt"


@dataclass(frozen=True, eq=False)
class Connection(Result):
    """A curve of low loss between two trained networks, and the line between them.

    The control point of the curve is in `control.safetensors` beside the result.
    """

    FORMAT = "lerpscape connection 1"

    curve: Profile
    line: Profile
    how: dict[str, Any] = field(repr=False)

    @property
    def summary(self) -> str:
        """Both barriers in a sentence."""
        return (
            f"Barrier of the curve {self.barrier('curve'):.4g} {self.line.unit}, of the line "
            f"{self.barrier('line'):.4g} {self.line.unit} (n = {self.line.examples:,})."
        )

    def barrier(self, path: str) -> float:
        """Largest height of the loss on the curve or the line above the chord of its ends' losses."""
        return float(getattr(self, path).barrier("chord"))


@dataclass(frozen=True)
class Between:
    """A comparison: how it is made of some subjects, its options, its result and the readings of that.

    `pairs` is whether it takes two networks, and so every pair of a group, or all networks of a group at once.
    `compare` gives the result, and further files by name.
    """

    compare: Callable[[CompareConfig, Sequence[Subject]], tuple[Result, dict[str, bytes]]]
    function: Callable[..., Any]
    result: type[Result]
    readings: Mapping[str, Reading]
    pairs: bool
    own: tuple[Parameter, ...] = ()

    @property
    def options(self) -> dict[str, Parameter]:
        """The arguments that a sweep file may give."""
        taken = (*ANSWERED, *WITHHELD, "groups")
        found = {name: one for name, one in parameters(self.function).items() if name not in taken}
        return found | {one.name: one for one in self.own}

    def members(self, group: Sequence[Member]) -> list[tuple[Member, ...]]:
        """The sets of a group's networks that are compared: every pair, or all together."""
        return list(combinations(group, 2)) if self.pairs else [tuple(group)]


def _asked(compare: CompareConfig, subject: Subject) -> dict[str, Any]:
    """The data and the options that the comparison shares with `profile`; they are those of the first network."""
    wanted = compare.examples
    drawn = {"seed": wanted.examples_seed, "batch_size": wanted.batch_size}
    return {
        "data": subject.batches(compare.on, wanted.examples, **drawn),
        "batch_norm": subject.policy(wanted.batch_norm, wanted.statistics, **drawn),
        "progress": False,
    }


def _pairwise(compare: CompareConfig, subjects: Sequence[Subject]) -> tuple[Result, dict[str, bytes]]:
    first, options = subjects[0], dict(compare.options)
    starts = options.pop("starts", True)
    points = {f"{INITIAL} {one.config.name}": one.start for one in subjects} if starts else {}
    points |= {f"{TRAINED} {one.config.name}": one.end for one in subjects}
    groups = {label: label.split(" ")[0] for label in points}
    asked = _asked(compare, first)
    return pairwise(first.model, points, asked.pop("data"), groups=groups, loss=first.loss, **asked, **options), {}


def _connect(compare: CompareConfig, subjects: Sequence[Subject]) -> tuple[Result, dict[str, bytes]]:
    first, second = subjects
    asked = _asked(compare, first)
    data, policy = asked["data"], asked["batch_norm"]
    # Estimated statistics cannot be trained through; those of each batch can, and the curve is measured as asked.
    through: BatchNormPolicy | None = BatchStatistics() if isinstance(policy, Recalibrate) else policy
    options = dict(compare.options)
    alphas = options.pop("alphas", 50)
    trained = connect(
        first.model, first.end, second.end, data, first.loss, batch_norm=through, progress=False, **options
    )
    curve, line = (
        profile(first.model, path, loss=first.loss, alphas=alphas, derivative=False, label=label, **asked)
        for label, path in (("curve", trained), ("line", Line(first.end, second.end)))
    )
    control = {name: tensor.clone().contiguous() for name, tensor in trained.control.tensors.items()}
    how = {"ends": [first.config.name, second.config.name], **{name: options[name] for name in sorted(options)}}
    return Connection(curve, line, how), {"control.safetensors": save(control)}


def _similarity(compare: CompareConfig, subjects: Sequence[Subject]) -> tuple[Result, dict[str, bytes]]:
    first, second = subjects
    asked = _asked(compare, first)
    return feature_similarity(
        first.model, Line(first.end, second.end), asked.pop("data"), **asked, **compare.options
    ), {}


def _block(one: str, other: str, reading: str) -> Reading:
    def read(result: Pairwise) -> float:
        block = result.blocks().get((one, other))
        return float("nan") if block is None else float(getattr(block, reading))

    return read


COMPARISONS: dict[str, Between] = {
    "pairwise": Between(
        _pairwise,
        pairwise,
        Pairwise,
        {
            f"{one}_{other}_{word}": _block(one, other, reading)
            for one, other in ((INITIAL, INITIAL), (TRAINED, TRAINED), (INITIAL, TRAINED))
            for word, reading in (("rise", "max_rise"), ("barrier", "barrier"))
        },
        pairs=False,
        own=(Parameter("starts", Parameter.KEYWORD_ONLY, default=True, annotation=bool),),
    ),
    "connect": Between(
        _connect,
        connect,
        Connection,
        {
            "curve_barrier": lambda result: result.barrier("curve"),
            "line_barrier": lambda result: result.barrier("line"),
            "curve_rise": lambda result: rise_of(result.curve),
            "line_rise": lambda result: rise_of(result.line),
            "distance": lambda result: result.line.distance,
        },
        pairs=True,
        own=(parameters(profile)["alphas"],),
    ),
    "feature_similarity": Between(
        _similarity,
        feature_similarity,
        FeatureSimilarity,
        {
            "mean_cka": lambda result: float(np.diag(result.cka).mean()),
            "last_cka": lambda result: float(np.diag(result.cka)[-1]),
        },
        pairs=True,
    ),
}
