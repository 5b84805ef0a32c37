from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cases import classes, random
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lerpscape.networks import cross_entropy, forward_ad
from lerpscape.networks.cross_entropy import entropies, entropies_and_correct
from lerpscape.networks.losses import LOSSES, evaluated

pytestmark = pytest.mark.kernels

NUMBERS = st.sampled_from([0.0, -0.0, 1.0, 1.0 + 2**-52, 40.0, -3.0, float("inf"), float("-inf"), float("nan")])


def places(logits: Tensor) -> list[int]:
    """The place of the first NaN, or else of the first largest, of each row, by hand."""
    found = []
    for row in logits.tolist():
        first = next((k for k, value in enumerate(row) if value != value), None)
        found.append(row.index(max(row)) if first is None else first)
    return found


@settings(deadline=None)
@given(st.data(), st.integers(1, 6), st.integers(1, 5), st.integers(1, 3), st.booleans())
def test_the_first_of_equal_logits_is_the_prediction_and_so_is_the_first_nan(
    data: st.DataObject, rows: int, count: int, at_once: int, moving: bool
) -> None:
    values = data.draw(st.lists(NUMBERS, min_size=rows * count, max_size=rows * count))
    wanted = data.draw(st.lists(st.sampled_from([*range(count), -100]), min_size=rows, max_size=rows))
    logits, targets = torch.tensor(values, dtype=torch.float64).view(rows, count), torch.tensor(wanted)
    expected = [place == each for place, each in zip(places(logits), wanted, strict=True)]
    with pytest.MonkeyPatch.context() as patched, forward_ad.level():
        given_logits = forward_ad.dual(logits, torch.ones_like(logits)) if moving else logits
        assert entropies_and_correct(given_logits, targets)[1].tolist() == expected
        patched.setattr(cross_entropy, "PIECE_LOGITS", at_once * count)
        patched.setattr(cross_entropy, "FEW_CLASSES", 0)
        patched.setattr(cross_entropy, "MANY_LOGITS", 0)
        losses, right = entropies_and_correct(given_logits, targets)
        assert right.tolist() == expected
        torch.testing.assert_close(losses, F.cross_entropy(logits, targets, reduction="none"), equal_nan=True)
        assert (forward_ad.split(losses)[1] is not None) == moving


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("rows", "count"), [(300, 1000), (1, 40_000), (700, 256), (20_000, 10), (0, 1000)])
def test_pieces_give_what_all_at_once_does(rows: int, count: int, dtype: torch.dtype) -> None:
    """In bfloat16 some of the largest of many logits are equal; elsewhere rows of zeros are."""
    logits, targets = random(rows, count, seed=0).to(dtype), classes(rows, seed=1, count=count)
    targets[::2] = logits[::2].argmax(1)
    targets[3::7] = -100
    logits[2::5] = 0
    losses, right = entropies_and_correct(logits, targets)
    assert right.equal(logits.argmax(1) == targets)
    assert losses.equal(entropies(logits, targets))
    expected = F.cross_entropy(logits.double(), targets, reduction="none").to(dtype)
    # logarithms of probabilities are rounded: a few units of those that are summed
    torch.testing.assert_close(losses, expected, rtol=4 * torch.finfo(dtype).eps, atol=8 * torch.finfo(dtype).eps)
    turned, others = entropies_and_correct(logits.t().contiguous().t(), targets)
    torch.testing.assert_close(turned, losses)
    assert others.equal(right)


def test_logits_that_differ_though_their_probabilities_round_to_the_same() -> None:
    # The logarithm of the sum of exponentials is 5.05. float32 numbers are 2⁻²¹ apart there, four times as far as the
    # logits, so that no kernel can tell their probabilities from each other.
    logits = torch.full((600, 256), 0.5)
    logits[:, 1], logits[:, 2] = 1.0, 1.0 + 2**-23
    assert (logits.log_softmax(1)[:, 1] == logits.log_softmax(1)[:, 2]).all()
    for place, expected in ((1, False), (2, True)):
        assert (entropies_and_correct(logits, torch.full((600,), place))[1] == expected).all()


def test_derivatives_pass_through_pieces() -> None:
    logits, moves, targets = random(600, 300, seed=0), random(600, 300, seed=2), classes(600, seed=1, count=300)
    expected = (moves * (logits.softmax(1) - F.one_hot(targets, 300))).sum(1)
    with forward_ad.level():
        losses, right = entropies_and_correct(forward_ad.dual(logits, moves), targets)
        torch.testing.assert_close(forward_ad.split(losses)[1], expected)
    assert right.equal(logits.argmax(1) == targets)
    logits.requires_grad_()
    (backward,) = torch.autograd.grad(entropies(logits, targets).sum(), logits)
    torch.testing.assert_close(backward, logits.detach().softmax(1) - F.one_hot(targets, 300))


def test_sequences_with_positions_to_leave_out() -> None:
    logits, targets = random(8, 40, 300, seed=0), classes(8, 40, seed=1, count=300)
    targets[:, ::3] = logits[:, ::3].argmax(-1)
    targets[0], targets[1, 5:] = -100, -100
    values, right, *_ = evaluated(LOSSES["cross_entropy"], logits, targets, 8)
    assert right is not None
    expected = LOSSES["cross_entropy"].values(logits, targets).nan_to_num(0)  # what is left out has the loss 0
    torch.testing.assert_close(values, expected, rtol=0, atol=0)
    kept = targets != -100
    wanted = ((logits.argmax(-1) == targets) & kept).sum(1) / kept.sum(1)
    torch.testing.assert_close(right, wanted.nan_to_num(0).double(), check_dtype=False)
    assert right[0] == 0 and 0.2 < float(right[2]) < 0.5


def test_nothing_is_looked_at_on_another_device() -> None:
    logits, targets = torch.zeros(560, 1000, device="meta"), torch.zeros(560, dtype=torch.long, device="meta")
    losses, right = entropies_and_correct(logits, targets)
    assert losses.device.type == right.device.type == "meta" and right.dtype == torch.bool
