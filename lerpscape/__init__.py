"""What does the loss do on the straight line between two checkpoints?

The public names are the imports below. Each is loaded when first used: `import lerpscape` imports neither torch nor
matplotlib.
"""

from typing import TYPE_CHECKING

from lerpscape.base.lazy_names import attach

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lerpscape import (
        base,
        certificates,
        engine,
        geometry,
        lab,
        networks,
        papers,
        paths,
        plots,
        profiles,
        readings,
        studies,
    )
    from lerpscape.base.errors import (
        ConfigError,
        Diverged,
        EndpointMismatch,
        LerpscapeError,
        NonFiniteLoss,
        NonFiniteOutput,
        NotRepeatable,
        PartialMismatch,
        StoreConflict,
    )
    from lerpscape.certificates.certify import certify
    from lerpscape.certificates.results import Certificate
    from lerpscape.geometry.gauss_length import gauss_length
    from lerpscape.geometry.gauss_length_results import GaussLength
    from lerpscape.geometry.hessian import curvature
    from lerpscape.networks.batch_norm import BatchStatistics, EndStatistics, InterpolateStatistics, Recalibrate
    from lerpscape.networks.losses import Loss
    from lerpscape.paths.checkpoints import checkpoint
    from lerpscape.paths.curves import Bezier, Polyline
    from lerpscape.paths.line import Line
    from lerpscape.paths.path import ParamPath
    from lerpscape.paths.planes import Plane
    from lerpscape.paths.spheres import SphericalLine
    from lerpscape.plots.report import report
    from lerpscape.profiles.profile import profile
    from lerpscape.profiles.results import Profile
    from lerpscape.profiles.sequential import sequential_verdict
    from lerpscape.readings.monotonicity import barrier, is_monotonic, max_rise, rises

__getattr__, __dir__, __all__ = attach(__name__, __file__)
