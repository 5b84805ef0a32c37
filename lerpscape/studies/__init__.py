"""Studies: many lines measured for one question, each one function with one result and one picture.

>>> import lerpscape as ls
>>> ls.studies.onset.__name__, ls.studies.Onset.__name__
('onset', 'Onset')
"""

from typing import TYPE_CHECKING

from lerpscape.base.lazy_names import attach

if TYPE_CHECKING:
    from lerpscape.studies.attribution import (
        layer_contributions as layer_contributions,
        statistics_contributions as statistics_contributions,
    )
    from lerpscape.studies.batch_norm_sweeps import (
        PolicyResult as PolicyResult,
        PolicySweep as PolicySweep,
        batch_norm_sweep as batch_norm_sweep,
    )
    from lerpscape.studies.biases import BiasStudy as BiasStudy, BiasVariant as BiasVariant, bias_study as bias_study
    from lerpscape.studies.connections import connect as connect
    from lerpscape.studies.contributions import Contributions as Contributions
    from lerpscape.studies.layers import Layerwise as Layerwise, layerwise as layerwise
    from lerpscape.studies.landscapes import Landscape as Landscape, landscape as landscape
    from lerpscape.studies.loss_planes import LossPlane as LossPlane, plane as plane
    from lerpscape.studies.onsets import Onset as Onset, onset as onset
    from lerpscape.studies.pairs import Block as Block, Pairwise as Pairwise, pairwise as pairwise
    from lerpscape.studies.plateaus import (
        Plateaus as Plateaus,
        plateau_ends as plateau_ends,
        predicted_plateau_ends as predicted_plateau_ends,
    )
    from lerpscape.studies.scaling import (
        ScaleCurve as ScaleCurve,
        ScaleInvariance as ScaleInvariance,
        scale_invariance as scale_invariance,
    )
    from lerpscape.studies.start_comparisons import (
        Excess as Excess,
        StartComparison as StartComparison,
        starts as starts,
    )
    from lerpscape.studies.sweet_spots import (
        Change as Change,
        SweetSpot as SweetSpot,
        sweet_spot as sweet_spot,
    )
    from lerpscape.studies.trajectories import Trajectory as Trajectory, trajectory as trajectory

__getattr__, __dir__, __all__ = attach(__name__, __file__)
