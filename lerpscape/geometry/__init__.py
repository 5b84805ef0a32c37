"""How outputs turn, how the loss bends and how features change along a path."""

from typing import TYPE_CHECKING

from lerpscape.base.lazy_names import attach

if TYPE_CHECKING:
    from lerpscape.geometry.conditions import Condition, sufficient_condition
    from lerpscape.geometry.curvature_results import Curvature
    from lerpscape.geometry.gauss_length_results import GaussLength, Level
    from lerpscape.geometry.hessian import curvature
    from lerpscape.geometry.output_projections import Linearity, OutputPaths, linearity, output_paths
    from lerpscape.geometry.similarity import FeatureLinearity, FeatureSimilarity, feature_linearity, feature_similarity

__getattr__, __dir__, __all__ = attach(__name__, __file__)
