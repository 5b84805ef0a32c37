"""Numbers that describe a sequence of losses along a path, without torch."""

from typing import TYPE_CHECKING

from lerpscape.base.lazy_names import attach

if TYPE_CHECKING:
    from lerpscape.readings.intervals import RiseInterval, rise_interval
    from lerpscape.readings.monotonicity import (
        Rise,
        area,
        barrier,
        global_convexity,
        is_monotonic,
        local_convexity,
        max_rise,
        max_step,
        plateau,
        relative_rise,
        rises,
    )
    from lerpscape.readings.results import Disagreement, Reading, Readings
    from lerpscape.readings.rises_between_points import HiddenRise, hidden_rises

__getattr__, __dir__, __all__ = attach(__name__, __file__)
