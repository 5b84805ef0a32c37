"""Checkpoints, and paths between them: the tensors θ(α) of a network at every α."""

from typing import TYPE_CHECKING

from lerpscape.base.lazy_names import attach

if TYPE_CHECKING:
    from lerpscape.paths.checkpoints import Checkpoint as Checkpoint, checkpoint as checkpoint
    from lerpscape.paths.curves import Bezier as Bezier, Polyline as Polyline
    from lerpscape.paths.endpoints import (
        aligned as aligned,
        fresh_init as fresh_init,
        noise_like as noise_like,
        permuted as permuted,
        zeros_like as zeros_like,
    )
    from lerpscape.paths.line import Line as Line
    from lerpscape.paths.path import ParamPath as ParamPath
    from lerpscape.paths.directions import random_direction as random_direction
    from lerpscape.paths.planes import Plane as Plane, PointList as PointList
    from lerpscape.paths.spheres import SphericalLine as SphericalLine
    from lerpscape.paths.writing import write_point as write_point

__getattr__, __dir__, __all__ = attach(__name__, __file__)
