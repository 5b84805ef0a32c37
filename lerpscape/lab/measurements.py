"""Every measurement that a sweep can ask for by name: its public function, and the numbers that tables read off it.

A function's arguments are of two kinds: those that a trained network answers (see `_answers`), and its options, which
a sweep file gives. The readings are scalars; one that is undefined for a result is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from inspect import Parameter, signature
from types import SimpleNamespace
from typing import Any, TypeAlias, get_args, get_type_hints

import numpy as np

from lerpscape.base.errors import NonFiniteLoss, NonFiniteOutput
from lerpscape.base.results import Result
from lerpscape.certificates.angles import AngleBounds, certify_angles
from lerpscape.certificates.certify import certify
from lerpscape.certificates.results import Certificate
from lerpscape.geometry.conditions import Condition, sufficient_condition
from lerpscape.geometry.curvature_results import Curvature
from lerpscape.geometry.gauss_length import gauss_length
from lerpscape.geometry.gauss_length_results import GaussLength
from lerpscape.geometry.hessian import curvature
from lerpscape.geometry.output_projections import Linearity, OutputPaths, linearity, output_paths
from lerpscape.geometry.similarity import FeatureLinearity, FeatureSimilarity, feature_linearity, feature_similarity
from lerpscape.lab.measure_config import Task
from lerpscape.lab.subjects import Subject
from lerpscape.lab.training import derived_seed
from lerpscape.profiles.examples import example_curves
from lerpscape.profiles.per_example import ExampleCurves
from lerpscape.profiles.profile import profile
from lerpscape.profiles.results import Profile
from lerpscape.profiles.sequential import sequential_verdict
from lerpscape.profiles.sequential_verdicts import SequentialVerdict
from lerpscape.studies.attribution import layer_contributions, statistics_contributions
from lerpscape.studies.batch_norm_sweeps import PolicySweep, batch_norm_sweep
from lerpscape.studies.biases import BiasStudy, bias_study
from lerpscape.studies.contributions import Contributions
from lerpscape.studies.layers import Layerwise, layerwise
from lerpscape.studies.loss_planes import LossPlane, plane
from lerpscape.studies.onsets import Onset, onset
from lerpscape.studies.plateaus import Plateaus, plateau_ends
from lerpscape.studies.scaling import ScaleInvariance, scale_invariance
from lerpscape.studies.start_comparisons import StartComparison, starts
from lerpscape.studies.trajectories import Trajectory, trajectory

Reading: TypeAlias = Callable[[Any], float]
SEEDED = 3  # stream of seeds for what a measurement draws
SHOWN = 10  # examples of a measurement that shows some one by one
# Arguments that are neither a network's nor a sweep's to choose: they change the speed or the place, or are not words.
WITHHELD = ("device", "dtype", "workers", "partial", "layer_major", "policies", "others")


@dataclass(frozen=True)
class Kind:
    """A measurement: its function, the type of its result, and its readings by name.

    `without` names arguments that it is called without, `defaults` options of which a sweep has another default.
    """

    function: Callable[..., Any]
    result: type[Result]
    readings: Mapping[str, Reading]
    without: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The arguments of the function, those behind its `**options` included, with resolved types."""
        found = {name: one for name, one in parameters(self.function).items() if name not in self.without}
        return found | {name: found[name].replace(default=value) for name, value in self.defaults.items()}

    @property
    def options(self) -> dict[str, Parameter]:
        """The arguments that a sweep file may give."""
        return {name: one for name, one in self.parameters.items() if name not in (*ANSWERED, *WITHHELD)}


@cache
def parameters(function: Callable[..., Any]) -> dict[str, Parameter]:
    """The keyword arguments of a function, those of the `TypedDict` behind its `**options` included.

    >>> "tolerance" in parameters(onset), "alphas" in parameters(onset), "options" in parameters(onset)
    (True, True, False)
    """
    found: dict[str, Parameter] = {}
    for name, one in signature(function).parameters.items():
        hint = _resolved(one.annotation, function.__globals__)
        if one.kind is one.VAR_KEYWORD:
            (table,) = get_args(hint)
            for key, annotation in get_type_hints(table).items():
                found.setdefault(key, Parameter(key, one.KEYWORD_ONLY, default=None, annotation=annotation))
        else:
            found[name] = one.replace(annotation=hint)
    return found


def _resolved(annotation: Any, names: dict[str, Any]) -> Any:
    """The type that an annotation in a string names; Any where it names types of another module."""
    try:
        return get_type_hints(SimpleNamespace(__annotations__={"it": annotation}), names)["it"]
    except (NameError, TypeError):  # an alias in a string: of a network, not of an option
        return Any


def _answers(subject: Subject, task: Task) -> dict[str, Callable[[], Any]]:
    """What a trained network answers, by the name of the argument."""
    wanted, part, shown = task.measure.examples, task.part, task.measure.examples.examples
    if "examples" in MEASUREMENTS[task.measure.what].parameters:  # it shows some examples one by one
        shown = SHOWN if shown is None else shown
    drawn = {"seed": wanted.examples_seed, "batch_size": wanted.batch_size}
    return {
        "model": lambda: subject.model,
        "path": lambda: subject.line,
        "line": lambda: subject.line,
        "start": lambda: subject.start,
        "end": lambda: subject.end,
        "other": lambda: subject.other,
        "checkpoints": lambda: subject.trajectory,
        "trajectory": lambda: subject.trajectory if subject.snapshots else None,
        "factory": lambda: subject.fresh,
        "data": lambda: subject.batches(part, shown, **drawn),
        "examples": lambda: min(shown or SHOWN, len(subject.split(part))),
        "estimate_from": lambda: subject.batches("train", wanted.statistics, **drawn),
        "batch_norm": lambda: subject.policy(wanted.batch_norm, wanted.statistics, **drawn),
        "loss": lambda: subject.loss,
        "label": lambda: part,
        "progress": lambda: False,
    }


ANSWERED = (
    *("model", "path", "line", "start", "end", "other", "checkpoints", "trajectory", "factory", "data", "examples"),
    *("estimate_from", "batch_norm", "loss", "label", "progress"),
)


def measure(task: Task, subject: Subject) -> Result:
    """Make one measurement of a trained network.

    A `seed` among the options is combined with the run's, so that no two runs are compared with the same draws.

    Raises what the function raises.
    """
    kind = MEASUREMENTS[task.measure.what]
    answers = _answers(subject, task)
    arguments = {name: answers[name]() for name in kind.parameters if name in answers}
    options = {**kind.defaults, **task.measure.options}
    if "seed" in kind.parameters:
        options["seed"] = derived_seed(SEEDED, subject.config.seed, options.get("seed", 0)) % 2**31
    result: Result = kind.function(**arguments, **options)
    return result


def reading(read: Reading, result: Result) -> float:
    """A reading of a result; NaN where it is undefined."""
    try:
        return float(read(result))
    except (NonFiniteLoss, NonFiniteOutput):
        return math.nan


def _mean(values: Any) -> float:
    finite = np.asarray(values, dtype=np.float64)
    return float(finite.mean()) if finite.size else math.nan


def _ends(name: str) -> dict[str, Reading]:
    """The first and the last value of an array."""
    return {
        f"first_{name}": lambda result: float(getattr(result, name)[0]),
        f"last_{name}": lambda result: float(getattr(result, name)[-1]),
    }


def _fields(*names: str) -> dict[str, Reading]:
    """Fields and properties that are numbers already."""
    return {name: lambda result, name=name: getattr(result, name) for name in names}  # type: ignore[misc]


def _peak(result: Profile) -> float:
    """The α at which the largest rise peaks; NaN where the loss never rises."""
    rises = result.rises
    return max(rises, key=lambda rise: rise.height).peak if rises else math.nan


def _inside(result: Profile) -> float:
    """The largest rise that peaks before the last α: `max_rise` without an overshoot at the end."""
    return max((rise.height for rise in result.rises if rise.peak < result.alphas[-1]), default=0.0)


def _accuracy(index: int) -> Reading:
    return lambda result: math.nan if result.accuracy is None else float(result.accuracy[index])


def _verdict(result: Certificate | SequentialVerdict) -> float:
    """1 where the loss is proved not to rise, 0 where it does, NaN undecided."""
    return {"monotonic": 1.0, "violated": 0.0}.get(result.verdict, math.nan)


def _family(name: str, of: Callable[[Any], float]) -> Reading:
    def read(result: StartComparison) -> float:
        rises = [rise for family, rise in zip(result.families, result.max_rise, strict=True) if family == name]
        return of(rises) if rises else math.nan

    return read


def _onset(result: Onset) -> float:
    """The share of the snapshots that lie before the onset; NaN where there is none."""
    return math.nan if result.onset is None else result.labels.index(result.onset) / len(result.labels)


def _policy(name: str) -> Reading:
    def read(result: PolicySweep) -> float:
        return next((policy.profile.max_rise for policy in result if policy.name == name), math.nan)

    return read


def _variant(name: str, field: str) -> Reading:
    return lambda result: getattr(result[name], field)


def _part(of: Callable[[Any], Any]) -> Reading:
    """A number of the parts of a change, by layer or kind."""
    return lambda result: float(of(result.parts)) if len(result.parts) else math.nan


PROFILE = {
    **_fields("max_rise", "relative_rise", "max_step", "local_convexity", "global_convexity", "area"),
    "interior_rise": _inside,
    "peak": _peak,
    "initial_loss": lambda result: result.loss[0],
    "final_loss": lambda result: result.loss[-1],
    "initial_accuracy": _accuracy(0),
    "final_accuracy": _accuracy(-1),
    **_fields("distance", "relative_distance", "examples"),
}
SPLIT: dict[str, Reading] = {
    **_fields("change", "residual", "converged"),
    "largest": _part(np.max),
    "smallest": _part(np.min),
}
WHOLE_LINE = {"between": (0.0, 1.0)}  # most lines have no rise, which these split by default
TURNING = {
    **_fields("mean", "stderr", "mean_error", "share_below_half_pi", "share_max_angle_below_half_pi", "converged"),
    "median": lambda result: float(np.median(result.per_example)),
    "mean_max_angle": lambda result: _mean(result.max_angle),
    "median_max_angle": lambda result: float(np.median(result.max_angle)),
    "examples": lambda result: len(result.per_example),
}
STARTS: dict[str, Reading] = {
    "own_rise": lambda result: result.max_rise[0],
    **{
        f"{word}_{family.split()[0]}_rise": _family(family, of)
        for family in ("fresh init", "noise", "zero", "permuted")
        for word, of in (("mean", _mean), ("largest", max))
    },
}
MEASUREMENTS: dict[str, Kind] = {
    "profile": Kind(profile, Profile, PROFILE),
    "certify": Kind(
        certify,
        Certificate,
        {**_fields("lower", "upper", "certified_share", "intervals", "evaluations", "examples"), "monotonic": _verdict},
        without=("label",),
    ),
    "certify_angles": Kind(
        certify_angles,
        AngleBounds,
        {**_fields("proved_share", "refuted_share"), "mean_upper": lambda result: _mean(result.upper)},
        without=("label",),
    ),
    "sequential_verdict": Kind(
        sequential_verdict,
        SequentialVerdict,
        {**_fields("lower", "upper", "examples"), "monotonic": _verdict},
    ),
    "gauss_length": Kind(gauss_length, GaussLength, TURNING),
    "sufficient_condition": Kind(
        sufficient_condition,
        Condition,
        {
            **_fields("share_below_half_pi", "share_max_angle_below_half_pi"),
            **_fields("share_monotone", "share_target_monotone"),
            "examples": lambda result: len(result.gauss_length),
        },
    ),
    "linearity": Kind(
        linearity,
        Linearity,
        {**_fields("value", "error"), "median_relative": lambda result: float(np.median(result.relative))},
    ),
    "output_paths": Kind(
        output_paths, OutputPaths, {"explained": lambda result: result.explained.sum()}, without=("seed",)
    ),
    "example_curves": Kind(
        example_curves,
        ExampleCurves,
        {
            "share_rising": lambda result: result.share_rising(0.0),
            "mean_rise": lambda result: _mean(result.rise),
            "largest_rise": lambda result: float(result.rise.max()),
        },
    ),
    "starts": Kind(starts, StartComparison, STARTS, without=("label",)),
    "layerwise": Kind(
        layerwise,
        Layerwise,
        {
            "largest_rise": lambda result: float(np.max(result.max_rise)),
            "share_rising": lambda result: _mean(result.max_rise > 0),
        },
        without=("label",),
    ),
    "onset": Kind(
        onset,
        Onset,
        {"onset": _onset, "share_monotonic": lambda result: _mean(result.monotonic)},
        without=("label", "end"),
    ),
    "trajectory": Kind(
        trajectory,
        Trajectory,
        {
            **_fields("length", "path_length"),
            "detour": lambda result: result.path_length / result.length,
            "largest_residual": lambda result: float(result.residual.max() / result.length),
        },
        without=("label", "alphas"),
    ),
    "plane": Kind(
        plane,
        LossPlane,
        {
            # Beyond the ends, interpolated variances may be negative: the loss is NaN there.
            "lowest": lambda result: float(np.nanmin(result.losses)),
            "highest": lambda result: float(np.nanmax(result.losses)),
        },
        without=("label",),
    ),
    "scale_invariance": Kind(
        scale_invariance,
        ScaleInvariance,
        {
            "least_agreement": lambda result: float(result["zero"].agreement.min()),
            "mean_agreement": lambda result: _mean(result["zero"].agreement),
        },
        without=("label",),
    ),
    "plateau_ends": Kind(
        plateau_ends,
        Plateaus,
        {
            **_fields("mean_error"),
            "mean_predicted": lambda result: _mean(result.predicted[result.known]),
            "mean_observed": lambda result: _mean(result.observed[result.known]),
        },
    ),
    "bias_study": Kind(
        bias_study,
        BiasStudy,
        {
            f"{name}_{field}": _variant(name, field)
            for name in ("straight", "homogeneous")
            for field in ("loss_plateau", "error_plateau")
        },
        without=("label",),
    ),
    "batch_norm_sweep": Kind(
        batch_norm_sweep,
        PolicySweep,
        {f"{name}_rise": _policy(name) for name in ("interpolate", "end", "batch", "recalibrate", "pooled")},
        without=("batch_norm", "label"),
    ),
    "layer_contributions": Kind(layer_contributions, Contributions, SPLIT, defaults=WHOLE_LINE),
    "statistics_contributions": Kind(statistics_contributions, Contributions, SPLIT, defaults=WHOLE_LINE),
    "curvature": Kind(curvature, Curvature, {**_ends("top"), **_ends("bottom"), **_ends("trace"), **_ends("along")}),
    "feature_linearity": Kind(
        feature_linearity,
        FeatureLinearity,
        {
            "mean_cosine": lambda result: _mean(result.cosine),
            "least_cosine": lambda result: float(np.min(result.cosine)),
        },
    ),
    "feature_similarity": Kind(
        feature_similarity, FeatureSimilarity, {"mean_cka": lambda result: _mean(np.diag(result.cka))}
    ),
}
