"""How outputs turn, how the loss bends and how features change along a path."""

from typing import TYPE_CHECKING

from lerpscape.base.lazy_names import attach

if TYPE_CHECKING:
    from lerpscape.geometry.conditions import Condition as Condition, sufficient_condition as sufficient_condition
    from lerpscape.geometry.curvature_results import Curvature as Curvature
    from lerpscape.geometry.gauss_length_results import GaussLength as GaussLength, Level as Level
    from lerpscape.geometry.hessian import curvature as curvature
    from lerpscape.geometry.output_projections import (
        Linearity as Linearity,
        OutputPaths as OutputPaths,
        linearity as linearity,
        output_paths as output_paths,
    )
    from lerpscape.geometry.similarity import (
        FeatureLinearity as FeatureLinearity,
        FeatureSimilarity as FeatureSimilarity,
        feature_linearity as feature_linearity,
        feature_similarity as feature_similarity,
    )

__getattr__, __dir__, __all__ = attach(__name__, __file__)
