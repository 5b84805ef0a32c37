"""Numbers that describe a sequence of losses along a path, without torch."""

from typing import TYPE_CHECKING

from lerpscape.base.lazy_names import attach

if TYPE_CHECKING:
    from lerpscape.readings.intervals import RiseInterval as RiseInterval, rise_interval as rise_interval
    from lerpscape.readings.monotonicity import (
        Rise as Rise,
        area as area,
        barrier as barrier,
        global_convexity as global_convexity,
        is_monotonic as is_monotonic,
        local_convexity as local_convexity,
        max_rise as max_rise,
        max_step as max_step,
        plateau as plateau,
        relative_rise as relative_rise,
        rises as rises,
    )
    from lerpscape.readings.results import Disagreement as Disagreement, Reading as Reading, Readings as Readings
    from lerpscape.readings.rises_between_points import HiddenRise as HiddenRise, hidden_rises as hidden_rises

__getattr__, __dir__, __all__ = attach(__name__, __file__)
