"""Studies: many lines measured for one question, each one function with one result and one picture.

>>> import lerpscape as ls
>>> ls.studies.onset.__name__, ls.studies.Onset.__name__
('onset', 'Onset')
"""

from typing import TYPE_CHECKING

from lerpscape.base.lazy_names import attach

if TYPE_CHECKING:
    from lerpscape.studies.attribution import layer_contributions, statistics_contributions
    from lerpscape.studies.batch_norm_sweeps import PolicyResult, PolicySweep, batch_norm_sweep
    from lerpscape.studies.biases import BiasStudy, BiasVariant, bias_study
    from lerpscape.studies.connections import connect
    from lerpscape.studies.contributions import Contributions
    from lerpscape.studies.layers import Layerwise, layerwise
    from lerpscape.studies.loss_planes import LossPlane, plane
    from lerpscape.studies.onsets import Onset, onset
    from lerpscape.studies.pairs import Block, Pairwise, pairwise
    from lerpscape.studies.plateaus import Plateaus, plateau_ends, predicted_plateau_ends
    from lerpscape.studies.scaling import ScaleCurve, ScaleInvariance, scale_invariance
    from lerpscape.studies.start_comparisons import Excess, StartComparison, starts
    from lerpscape.studies.trajectories import Trajectory, trajectory

__getattr__, __dir__, __all__ = attach(__name__, __file__)
