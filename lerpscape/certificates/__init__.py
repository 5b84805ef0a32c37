"""Proved bounds of the loss and of angles that hold at every α, not only on a grid."""

from typing import TYPE_CHECKING

from lerpscape.base.lazy_names import attach

if TYPE_CHECKING:
    from lerpscape.certificates.angles import AngleBounds as AngleBounds, certify_angles as certify_angles
    from lerpscape.certificates.results import Certificate as Certificate

__getattr__, __dir__, __all__ = attach(__name__, __file__)
