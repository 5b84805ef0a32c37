"""Losses along a path, of all examples together or one by one, with their intervals."""

from typing import TYPE_CHECKING

from lerpscape.base.lazy_names import attach

if TYPE_CHECKING:
    from lerpscape.profiles.examples import example_curves as example_curves
    from lerpscape.profiles.gates import Gate as Gate, gate as gate
    from lerpscape.profiles.per_example import ClassCurve as ClassCurve, ExampleCurves as ExampleCurves
    from lerpscape.profiles.results import MetricCurve as MetricCurve, Profile as Profile
    from lerpscape.profiles.sequential import sequential_verdict as sequential_verdict
    from lerpscape.profiles.sequential_verdicts import SequentialVerdict as SequentialVerdict

__getattr__, __dir__, __all__ = attach(__name__, __file__)
