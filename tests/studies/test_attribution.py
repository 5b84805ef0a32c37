"""Path integrals per layer, and weights against statistics: closed forms, finite differences, sums that must add up."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from cases import CASES, POLICIES, Case, generator, variants
from torch import Tensor, nn

import lerpscape as ls
from lerpscape.engine.measurement import opened
from lerpscape.networks.losses import find_loss
from lerpscape.studies.attribution import _Slopes
from lerpscape.studies.quadrature import integrate

matplotlib.use("agg")
VARIANTS = variants()
# Every policy has its slopes and two parts among the quick tests, below.
LONGER = ("cnn-interpolate", "cnn-end", "cnn-pooled", "cnn-momentum")
ADDED = [pytest.param(*each, marks=[pytest.mark.slow] * (each[0] in LONGER)) for each in VARIANTS]


@pytest.mark.parametrize(("name", "case", "policy"), ADDED, ids=[name for name, _, _ in VARIANTS])
def test_parts_add_up_to_the_change(name: str, case: Case, policy: Any) -> None:
    start, end = case.ends()
    line, share = ls.Line(start, end), 0.03  # kinks of 17 examples: more points than a test should take for less
    found = ls.studies.layer_contributions(
        start, line, case.data(), loss=case.loss, between=(0, 1), precision=share, batch_norm=policy
    )
    measured = ls.profile(
        start, ls.Line(start, end), case.data(), loss=case.loss, alphas=2, batch_norm=policy, derivative=False
    )
    # The ends are the profile's own; what the parts miss is the stated quadrature error, within what was asked for.
    assert found.losses == pytest.approx(tuple(measured.loss), rel=1e-14)
    assert abs(found.change - found.parts.sum()) == pytest.approx(abs(found.residual), rel=1e-12)
    assert abs(found.residual) <= share * np.abs(found.parts).sum()
    assert found.converged
    assert found.change != 0


def test_only_parameters_that_shape_the_curve_are_parts() -> None:
    case = CASES[3]
    start, end = case.ends()
    names = {}
    for policy in ("interpolate", "end", "recalibrate"):
        names[policy] = ls.studies.layer_contributions(
            start,
            ls.Line(start, end),
            case.data(),
            between=(0, 1),
            precision=1.0,
            budget=9,
            batch_norm=POLICIES[policy](case.data()),
        ).names
    assert names["end"] == names["recalibrate"] == ("0", "1", "5", "9")
    assert set(names["interpolate"]) == {"0", "1", "5", "9", "1 (statistics)", "6 (statistics)"}


@pytest.mark.parametrize("policy", [None, *POLICIES])
def test_slopes_are_those_of_moving_one_tensor_alone(policy: str | None) -> None:
    """Each part's dL/dα against a central difference of the loss, with that tensor alone moved from θ(α)."""
    case = CASES[0] if policy is None else CASES[3]
    start, end = case.ends()
    line, alpha, h = ls.Line(start, end), 0.37, 1e-5
    chosen = None if policy is None else POLICIES[policy](case.data())
    found = ls.studies.layer_contributions(
        start, line, case.data(), between=(alpha, 0.9), by="tensor", budget=9, batch_norm=chosen
    )
    velocity = line.velocity(alpha)

    def moved(k: int) -> dict[str, Tensor]:
        """A step back and one forward for each tensor, one after the other."""
        state, name = line.at(alpha), found.names[k // 2]
        return state | {name: state[name] + (h if k % 2 else -h) * velocity[name]}

    stops = ls.paths.PointList((line.start, line.end), 2 * len(found.names), moved, "neighbourhood")
    around = ls.profile(start, stops, case.data(), alphas=len(stops), batch_norm=chosen, derivative=False).loss
    # O(h²) and rounding / h
    assert found.slopes[0] == pytest.approx((around[1::2] - around[::2]) / (2 * h), rel=1e-5, abs=1e-8)


class Terms(nn.Module):
    """Outputs w₁³, −w₂² and w₃ for every example: their sum as the loss belongs to the three layers exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(1, 1, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        parts = (self.first.weight**3, -(self.second.weight**2), self.third.weight)
        return torch.cat([part.expand(len(x), 1) for part in parts], 1)


def summed(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.sum(1)


def test_a_sum_of_terms_is_attributed_term_by_term() -> None:
    names = ("first", "second", "third")
    ends = [
        {f"{name}.weight": torch.full((1, 1), value).double() for name, value in zip(names, values, strict=True)}
        for values in ((1.0, 1.0, 5.0), (2.0, 3.0, 5.0))
    ]
    x = torch.zeros(4, 1).double()
    found = ls.studies.layer_contributions(Terms().double(), ls.Line(*ends), [(x, x)], loss=summed, between=(0, 1))
    assert found.names == names
    assert found.parts == pytest.approx([7, -8, 0], abs=1e-12)  # Simpson is exact on cubics
    assert found.ranked()[0] == ("first", pytest.approx(7))
    assert "up by first +7; down by second -8" in found.summary


def test_products_share_by_the_path() -> None:
    """L = (w₁w₂)² from (0, 1) to (1, 3): the parts by integrals done by hand."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).double()
    ends = [
        {"0.weight": torch.full((1, 1), a).double(), "1.weight": torch.full((1, 1), b).double()}
        for a, b in ((0.0, 1.0), (1.0, 3.0))
    ]
    x = torch.ones(3, 1).double()
    found = ls.studies.layer_contributions(model, ls.Line(*ends), [(x, 0 * x)], loss="squared_error", between=(0, 1))
    # w₁ = α, w₂ = 1 + 2α: ∫ 2α(1+2α)² dα = 1 + 8/3 + 2 and ∫ 4α²(1+2α) dα = 4/3 + 2.
    assert found.parts == pytest.approx([17 / 3, 10 / 3], abs=1e-2 * 9)
    assert found.errors.max() < 1e-2
    exact = ls.studies.layer_contributions(
        model, ls.Line(*ends), [(x, 0 * x)], loss="squared_error", between=(0, 1), precision=1e-8, budget=1025
    )
    assert exact.parts == pytest.approx([17 / 3, 10 / 3], abs=1e-7)


def test_a_layer_known_to_make_the_rise_is_blamed() -> None:
    """A network at a minimum of its own, of which one layer then walks through zero to its mirror image."""
    case = CASES[1]
    end = case.ends()[1]
    pushed = deepcopy(end)
    pushed[3].weight.data *= -2
    pushed[0].weight.data += 1e-3 * torch.randn(8, 4, generator=generator(9), dtype=torch.float64)
    found = ls.studies.layer_contributions(end, ls.Line(end, pushed), case.data(), loss="squared_error")
    assert found.change > 0.01
    assert found.ranked()[0][0] == "3"
    assert found.ranked()[0][1] > 0.95 * found.change
    profile = ls.profile(end, ls.Line(end, pushed), case.data(), loss="squared_error", alphas=50)
    largest = max(profile.rises, key=lambda rise: rise.height)
    assert found.between == (largest.opens, largest.peak)
    assert found.change == pytest.approx(profile.max_rise, rel=1e-12)


@pytest.mark.parametrize("policy", list(POLICIES))
def test_weights_and_statistics_add_up(policy: str) -> None:
    case = CASES[3]
    start, end = case.ends()
    found = ls.studies.statistics_contributions(
        start, ls.Line(start, end), case.data(), between=(0, 1), batch_norm=POLICIES[policy](case.data())
    )
    assert found.names == ("weights", "statistics")
    assert found.converged
    if policy == "end":
        assert found.parts[1] == 0
    else:
        assert abs(found.parts[1]) > 1e-4


@pytest.mark.parametrize("policy", list(POLICIES))
def test_weights_are_differentiated_with_statistics_held(policy: str) -> None:
    """∂L/∂α at held statistics against a difference in which they are copied from α by hand."""
    case = CASES[3]
    start, end = case.ends()
    line, alpha, h = ls.Line(start, end), 0.37, 1e-5
    chosen = POLICIES[policy](case.data())
    with opened(ls.studies.layer_contributions, start, line, case.data(), {"batch_norm": chosen}) as measurement:
        slopes = _Slopes(measurement, find_loss("cross_entropy"))
        _, found = slopes._sums([alpha], {"weights": (None, True)})
        losses = []
        for side in (-h, h):
            total = 0.0
            for batch in slopes.reader.batches():
                state = measurement.statistics.apply(slopes.on_path.at(alpha), alpha)
                if policy == "batch":
                    state |= by_hand(start, state, batch.inputs)
                moved = slopes.on_path.at(alpha + side)
                state |= {name: moved[name] for name, _ in start.named_parameters()}
                outputs = torch.func.functional_call(start.eval(), state, (batch.inputs,))
                total += float(find_loss("cross_entropy").values(outputs, batch.targets).sum())
            losses.append(total / slopes.examples)
    assert found[0, 0] == pytest.approx((losses[1] - losses[0]) / (2 * h), rel=1e-5, abs=1e-8)


def by_hand(model: nn.Module, state: dict[str, Tensor], inputs: Tensor) -> dict[str, Tensor]:
    """Statistics of one batch in both batch-norm layers of the convolutional case, layer after layer."""
    found = {}
    values = inputs
    for index, layer in enumerate(model):
        if isinstance(layer, nn.BatchNorm2d):
            variance, mean = torch.var_mean(values, (0, 2, 3), correction=0)
            found[f"{index}.running_mean"], found[f"{index}.running_var"] = mean, variance
        own = {
            name.removeprefix(f"{index}."): tensor
            for name, tensor in (state | found).items()
            if name.startswith(f"{index}.")
        }
        values = torch.func.functional_call(layer.eval(), own, (values,))
    return found


def test_a_scale_that_batch_norm_undoes_is_weights_against_statistics() -> None:
    """Behind the layer 2ᵅ… the outputs never change: the two parts cancel exactly, and both are known."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1, affine=False, eps=1e-9)).double()
    x = torch.tensor([[-1.0], [1.0]]).double()
    states = [{**model.state_dict(), "0.weight": torch.full((1, 1), w).double()} for w in (1.0, 2.0)]
    found = ls.studies.statistics_contributions(
        model,
        ls.Line(*states),
        [(x, 0 * x)],
        loss="squared_error",
        between=(0, 1),
        batch_norm=ls.Recalibrate([(x, 0 * x)]),
        precision=1e-6,
    )
    # L = w²/σ² with σ = w held: dL = 2 dw/w, so the weights' part is 2 ln 2.
    assert found.parts == pytest.approx([2 * np.log(2), -2 * np.log(2)], abs=1e-5)


def test_the_sweep_shows_every_policy() -> None:
    case = CASES[3]
    start, end = case.ends()
    line = ls.Line(start, end)
    found = ls.studies.batch_norm_sweep(
        start, line, case.data(), estimate_from=case.data(), alphas=7, precision=0.1, budget=17
    )
    assert [each.name for each in found] == ["interpolate", "end", "batch", "recalibrate", "pooled"]
    for each in found:
        chosen = POLICIES[each.name](case.data())
        alone = ls.profile(start, line, case.data(), alphas=7, batch_norm=chosen)
        assert each.profile.loss.tolist() == alone.loss.tolist()
        assert each.split is not None and abs(each.split.residual) < 0.02
        assert set(each.split.between) <= set(alone.alphas)
    rows = found.to_pandas()
    assert np.allclose(rows["weights"] + rows["statistics"] + rows["residual"], rows["change"], atol=1e-12)
    assert "over 5 batch-norm policies" in found.summary
    assert len(found.figure().axes) == 2
    with pytest.raises(ValueError, match="at least one policy"):
        ls.studies.batch_norm_sweep(start, line, case.data(), estimate_from=case.data(), policies={})


def test_a_budget_that_ends_early_is_said() -> None:
    case = CASES[0]
    start, end = case.ends()
    found = ls.studies.layer_contributions(
        start, ls.Line(start, end), case.data(), between=(0, 1), precision=1e-12, budget=9
    )
    assert not found.converged
    assert "The budget ended" in found.summary


def test_nothing_to_attribute_and_nothing_to_differentiate_are_refused() -> None:
    model = nn.Linear(1, 1, bias=False).double()
    line = ls.Line({"weight": torch.zeros(1, 1).double()}, {"weight": torch.ones(1, 1).double()})
    x = torch.ones(4, 1).double()
    with pytest.raises(ValueError, match=r"never rises on 50 points.\ntry: between=\(0, 1\)"):
        ls.studies.layer_contributions(model, line, [(x, x)], loss="squared_error")
    with pytest.raises(ValueError, match="a < b"):
        ls.studies.layer_contributions(model, line, [(x, x)], loss="squared_error", between=(1, 0))
    with pytest.raises(ValueError, match="at least 9 points"):
        ls.studies.layer_contributions(model, line, [(x, x)], loss="squared_error", between=(0, 1), budget=5)
    with pytest.raises(ValueError, match=r"(?s)a derivative, to attribute.*difference quotient"):
        ls.studies.layer_contributions(
            model, line, [(x, x)], loss=lambda z, y: z.detach().square()[:, 0], between=(0, 1)
        )
    with pytest.raises(ls.NonFiniteLoss, match="both ends"):
        ls.studies.layer_contributions(model, line, [(x, x)], loss=lambda z, y: z.log()[:, 0], between=(0, 1))
    with pytest.raises(ValueError, match="a model with batch norm"):
        ls.studies.statistics_contributions(model, line, [(x, x)], between=(0, 1), batch_norm=ls.EndStatistics())
    untracked = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1, track_running_stats=False)).double()
    ends = [{**untracked.state_dict(), "0.weight": torch.full((1, 1), w).double()} for w in (1.0, 2.0)]
    with pytest.raises(ValueError, match="track_running_stats=False"):
        ls.studies.statistics_contributions(
            untracked, ls.Line(*ends), [(x, x)], loss="squared_error", between=(0, 1), batch_norm=ls.BatchStatistics()
        )


def test_groups_of_ones_own() -> None:
    case = CASES[0]
    start, end = case.ends()
    found = ls.studies.layer_contributions(
        start,
        ls.Line(start, end),
        case.data(),
        between=(0.25, 0.75),
        by=lambda name: "biases" if name.endswith("bias") else "weights",
    )
    assert found.names == ("weights", "biases")
    assert found.to_pandas()["part"].tolist() == found.parts.tolist()
    assert found.plot().get_xlabel().startswith("part of L(0.75) − L(0.25)")
    matplotlib.pyplot.close("all")


def test_the_caller_s_model_is_left_alone() -> None:
    case = CASES[3]
    start = case.ends()[0]
    start.train()
    before = {name: tensor.clone() for name, tensor in start.state_dict().items()}
    ls.studies.batch_norm_sweep(
        start, ls.Line(*case.ends()), case.data(), estimate_from=case.data(), alphas=3, budget=9
    )
    assert start.training
    assert all(torch.equal(before[name], tensor) for name, tensor in start.state_dict().items())


def test_simpson_on_a_kink_says_how_far_off_it_may_be() -> None:
    found = integrate(
        lambda x: np.abs(x - 0.3)[:, None], 0.0, 1.0, settled=lambda f: bool(f.errors.max() < 1e-4), budget=4097
    )
    exact = (0.3**2 + 0.7**2) / 2
    assert abs(found.values[0] - exact) < 2e-4
    assert len(found.points) > 9
