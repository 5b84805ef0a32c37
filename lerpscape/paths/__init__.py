"""Checkpoints, and paths between them: the tensors θ(α) of a network at every α."""

from typing import TYPE_CHECKING

from lerpscape.base.lazy_names import attach

if TYPE_CHECKING:
    from lerpscape.paths.checkpoints import Checkpoint, checkpoint
    from lerpscape.paths.curves import Bezier, Polyline
    from lerpscape.paths.endpoints import aligned, fresh_init, noise_like, permuted, zeros_like
    from lerpscape.paths.line import Line
    from lerpscape.paths.path import ParamPath
    from lerpscape.paths.planes import Plane, PointList
    from lerpscape.paths.spheres import SphericalLine

__getattr__, __dir__, __all__ = attach(__name__, __file__)
