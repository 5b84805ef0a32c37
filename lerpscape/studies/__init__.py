"""Studies: many lines measured for one question, each one function with one result and one picture.

>>> import lerpscape as ls
>>> ls.studies.onset.__name__, ls.studies.Onset.__name__
('onset', 'Onset')
"""

from typing import TYPE_CHECKING

from lerpscape.lazy_names import attach

if TYPE_CHECKING:
    from lerpscape.studies.layers import Layerwise, layerwise
    from lerpscape.studies.onsets import Onset, onset
    from lerpscape.studies.pairs import Block, Pairwise, pairwise
    from lerpscape.studies.starts import Excess, StartComparison, compare_starts
    from lerpscape.studies.surfaces import LossPlane, plane
    from lerpscape.studies.trajectories import Trajectory, trajectory

__getattr__, __dir__, __all__ = attach(__name__, __file__)
