from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import classes, random

from lerpscape.networks.losses import (
    LOSSES,
    Loss,
    binary_cross_entropy,
    cross_entropy,
    evaluated,
    find_loss,
    mean_squared_error,
    per_example_values,
    squared_error,
)


def test_cross_entropy_against_torch_and_by_hand() -> None:
    logits, labels = random(6, 4, seed=0), classes(6, seed=1, count=4)
    torch.testing.assert_close(cross_entropy(logits, labels), F.cross_entropy(logits, labels, reduction="none"))
    by_hand = [-np.log(np.exp(z)[y] / np.exp(z).sum()) for z, y in zip(logits.numpy(), labels.numpy(), strict=True)]
    np.testing.assert_allclose(cross_entropy(logits, labels), by_hand, rtol=1e-13)
    soft = logits.flip(0).softmax(-1)
    torch.testing.assert_close(cross_entropy(logits, soft), F.cross_entropy(logits, soft, reduction="none"))


def test_sequences_average_their_kept_positions_first() -> None:
    logits, labels = random(2, 3, 4, seed=0), classes(2, 3, seed=1, count=4)
    labels[0, 1:] = -100
    expected = [F.cross_entropy(logits[0, :1], labels[0, :1]), F.cross_entropy(logits[1], labels[1])]
    torch.testing.assert_close(cross_entropy(logits, labels), torch.stack(expected))
    labels[0] = -100
    assert torch.isnan(cross_entropy(logits, labels)[0])


def test_squared_errors_never_broadcast() -> None:
    z, y = random(5, 2, 3, seed=0), random(5, 2, 3, seed=1)
    expected = ((z - y) ** 2).reshape(5, -1)
    torch.testing.assert_close(squared_error(z, y), expected.sum(1))
    torch.testing.assert_close(mean_squared_error(z, y), expected.mean(1))
    torch.testing.assert_close(squared_error(z[:, 0, 0], y[:, 0, 0]), expected[:, 0])
    with pytest.raises(ValueError, match=r"(?s)nothing is broadcast.*outputs \(5, 1\) and targets \(5,\)"):
        squared_error(z[:, 0, :1], y[:, 0, 0])


def test_binary_cross_entropy_takes_integers_columns_and_many_labels() -> None:
    z, y = random(6, seed=0), classes(6, seed=1, count=2)
    expected = F.binary_cross_entropy_with_logits(z, y.double(), reduction="none")
    torch.testing.assert_close(binary_cross_entropy(z, y), expected)
    torch.testing.assert_close(binary_cross_entropy(z[:, None], y), expected)
    many = torch.stack([y, 1 - y], 1)
    torch.testing.assert_close(
        binary_cross_entropy(torch.stack([z, z], 1), many),
        (expected + F.binary_cross_entropy_with_logits(z, 1 - y.double(), reduction="none")) / 2,
    )
    with pytest.raises(ValueError, match="one target in"):
        binary_cross_entropy(z, y[:3])


def test_accuracies() -> None:
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0]])
    right = LOSSES["cross_entropy"].correct
    assert right is not None
    assert right(logits, torch.tensor([0, 1, 1])).tolist() == [True, True, False]
    assert right(logits[None], torch.tensor([[0, -100, 1]])).tolist() == [0.5]
    assert right(logits, torch.eye(2)[[0, 1, 1]]).tolist() == [True, True, False]
    for targets in (torch.tensor([0, 1, 1]), torch.eye(2)[[0, 1, 1]]):
        values, found, *_ = evaluated(LOSSES["cross_entropy"], logits, targets, 3)
        assert values.equal(cross_entropy(logits, targets)) and found is not None
        assert found.equal(right(logits, targets))
    side = LOSSES["binary_cross_entropy"].correct
    assert side is not None
    assert side(torch.tensor([-1.0, 2.0]), torch.tensor([0, 0])).tolist() == [1.0, 0.0]


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"class numbers .*\n.*outputs \(3, 2\) and targets \(4,\)"):
        cross_entropy(torch.zeros(3, 2), torch.zeros(4, dtype=torch.long))
    with pytest.raises(TypeError, match="one called logits"):
        cross_entropy((torch.zeros(3, 2), None), torch.zeros(3, dtype=torch.long))


def test_finding_losses() -> None:
    assert find_loss("squared_error").unit == "squared output units"
    own = find_loss(F.l1_loss)
    assert own.name == "l1_loss" and own.correct is None
    assert find_loss(own) is own
    with pytest.raises(ValueError, match="cross_entropy, squared_error"):
        find_loss("mse")
    with pytest.raises(TypeError, match="int"):
        find_loss(3)  # type: ignore[arg-type]


def test_a_loss_must_give_one_value_per_example() -> None:
    z, y = torch.zeros(3, 2), torch.zeros(3, dtype=torch.long)
    with pytest.raises(TypeError, match=r"(?s)one value per example.*shape \(\) from 'cross_entropy'.*reduction="):
        per_example_values(find_loss(F.cross_entropy), z, y, 3)
    with pytest.raises(TypeError, match="float"):
        per_example_values(Loss("number", lambda z, y: 1.0), z, y, 3)  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match="3 losses, one for each example"):
        per_example_values(Loss("positions", lambda z, y: z.flatten()), z, y, 3)
