"""What does the loss do on the straight line between two checkpoints?

The public names are the imports below. Each is loaded when first used: `import lerpscape` imports neither torch nor
matplotlib.
"""

from typing import TYPE_CHECKING

from lerpscape.lazy_names import attach

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lerpscape import studies
    from lerpscape.angle_bounds import AngleBounds, certify_angles
    from lerpscape.attribution import layer_contributions, statistics_contributions
    from lerpscape.batch_norm import BatchStatistics, EndStatistics, InterpolateStatistics, Recalibrate
    from lerpscape.bias_paths import BiasStudy, BiasVariant, bias_study
    from lerpscape.certificates import Certificate
    from lerpscape.certification import certify
    from lerpscape.checkpoints import Checkpoint, checkpoint
    from lerpscape.conditions import Condition, sufficient_condition
    from lerpscape.connection import connect
    from lerpscape.contributions import Contributions
    from lerpscape.crosswalk import Disagreement, Reading, Readings
    from lerpscape.curvatures import Curvature
    from lerpscape.curves import Bezier, Polyline
    from lerpscape.endpoints import aligned, fresh_init, noise_like, permuted, zeros_like
    from lerpscape.errors import (
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
    from lerpscape.examples import example_curves
    from lerpscape.gauss import gauss_length
    from lerpscape.gauss_lengths import GaussLength, Level
    from lerpscape.hessians import curvature
    from lerpscape.hidden import HiddenRise, hidden_rises
    from lerpscape.losses import Loss
    from lerpscape.measure import profile
    from lerpscape.monotonicity import (
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
    from lerpscape.paths import Line, ParamPath
    from lerpscape.per_example import ClassCurve, ExampleCurves
    from lerpscape.planes import Plane, Stops
    from lerpscape.plateaus import Plateaus, plateau_ends, predicted_plateau_ends
    from lerpscape.policies import PolicyResult, PolicySweep, batch_norm_sweep
    from lerpscape.profiles import Profile
    from lerpscape.projections import Linearity, OutputPaths, linearity, output_paths
    from lerpscape.reports import report
    from lerpscape.scaling import ScaleCurve, ScaleInvariance, scale_invariance
    from lerpscape.sequential import sequential_verdict
    from lerpscape.sequential_verdicts import SequentialVerdict
    from lerpscape.similarity import FeatureLinearity, FeatureSimilarity, feature_linearity, feature_similarity
    from lerpscape.spheres import SphericalLine
    from lerpscape.statistics import RiseInterval, rise_interval
    from lerpscape.studies.layers import Layerwise, layerwise
    from lerpscape.studies.onsets import Onset, onset
    from lerpscape.studies.pairs import Block, Pairwise, pairwise
    from lerpscape.studies.starts import Excess, StartComparison, compare_starts
    from lerpscape.studies.surfaces import LossPlane, plane
    from lerpscape.studies.trajectories import Trajectory, trajectory

__getattr__, __dir__, __all__ = attach(__name__, __file__)
