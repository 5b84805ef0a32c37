"""What does the loss do on the straight line between two checkpoints?

The public names are the imports below. Each is loaded when first used: `import lerpscape` imports neither torch nor
matplotlib.
"""

from typing import TYPE_CHECKING

from lerpscape.base.lazy_names import attach

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lerpscape import (
        base as base,
        certificates as certificates,
        engine as engine,
        geometry as geometry,
        integrations as integrations,
        lab as lab,
        networks as networks,
        papers as papers,
        paths as paths,
        plots as plots,
        profiles as profiles,
        readings as readings,
        studies as studies,
    )
    from lerpscape.base.errors import (
        CallFailed as CallFailed,
        ConfigError as ConfigError,
        Diverged as Diverged,
        EndpointMismatch as EndpointMismatch,
        LerpscapeError as LerpscapeError,
        NonFiniteLoss as NonFiniteLoss,
        NonFiniteOutput as NonFiniteOutput,
        NotRepeatable as NotRepeatable,
        PartialMismatch as PartialMismatch,
        StoreConflict as StoreConflict,
    )
    from lerpscape.certificates.certify import certify as certify
    from lerpscape.certificates.results import Certificate as Certificate
    from lerpscape.geometry.gauss_length import gauss_length as gauss_length
    from lerpscape.geometry.gauss_length_results import GaussLength as GaussLength
    from lerpscape.geometry.hessian import curvature as curvature
    from lerpscape.networks.batch_norm import (
        BatchStatistics as BatchStatistics,
        EndStatistics as EndStatistics,
        InterpolateStatistics as InterpolateStatistics,
        Recalibrate as Recalibrate,
    )
    from lerpscape.networks.losses import Loss as Loss
    from lerpscape.paths.checkpoints import checkpoint as checkpoint
    from lerpscape.paths.curves import Bezier as Bezier, Polyline as Polyline
    from lerpscape.paths.line import Line as Line
    from lerpscape.paths.path import ParamPath as ParamPath
    from lerpscape.paths.planes import Plane as Plane
    from lerpscape.paths.spheres import SphericalLine as SphericalLine
    from lerpscape.paths.writing import write_point as write_point
    from lerpscape.plots.report import report as report
    from lerpscape.profiles.profile import profile as profile
    from lerpscape.profiles.results import Profile as Profile
    from lerpscape.profiles.sequential import sequential_verdict as sequential_verdict
    from lerpscape.readings.monotonicity import (
        barrier as barrier,
        is_monotonic as is_monotonic,
        max_rise as max_rise,
        rises as rises,
    )

__getattr__, __dir__, __all__ = attach(__name__, __file__)
