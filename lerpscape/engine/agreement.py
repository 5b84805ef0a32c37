"""Two ways to measure the same examples: whether they agree but for rounding."""

from __future__ import annotations

import torch

from lerpscape.engine.losses_by_alpha import LossesAtAlpha


def difference(found: LossesAtAlpha, expected: LossesAtAlpha, dtype: torch.dtype) -> str | None:
    """How two measurements of the same examples differ by more than rounding; None where they do not.

    >>> one, other = (LossesAtAlpha(torch.tensor([losses]), None, None) for losses in (1.0, 1.1))
    >>> difference(one, one, torch.float32), difference(other, one, torch.float32)
    (None, 'losses off by 0.1')
    """
    tolerance = 4096 * torch.finfo(dtype).eps
    for what, mine, plain in (
        ("losses", found.losses, expected.losses),
        ("derivatives", found.slopes, expected.slopes),
    ):
        if mine is None or plain is None:
            if mine is not plain:
                return f"other {what}"
            continue
        finite = plain.isfinite()
        if mine.shape != plain.shape or not mine.isfinite().equal(finite):
            return f"other {what}"
        # A kink within rounding gives a single example another derivative: they are compared together.
        off = float((mine - plain)[finite].double().norm())
        if off > tolerance * (1e-3 + float(plain[finite].double().norm())) * (1 if what == "losses" else 16):
            return f"{what} off by {off:.2g}"
    return None
