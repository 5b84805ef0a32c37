"""Labels whose meaning a model owns, weights, what an example is, and exceptions, against plain loops in float64."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import classes, random, seeded
from torch import Tensor, nn

import lerpscape as ls

GRID = [0.0, 0.4, 1.0]


@dataclass
class Output:
    logits: Tensor
    loss: Tensor | None = None


class TinyForCausalLM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb, self.rnn, self.head = nn.Embedding(9, 6), nn.GRU(6, 6, batch_first=True), nn.Linear(6, 9)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> Output:
        logits = self.head(self.rnn(self.emb(input_ids))[0])
        if labels is None:
            return Output(logits)
        return Output(logits, F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()))


class TinySeq2Seq(nn.Module):
    config = SimpleNamespace(is_encoder_decoder=True)

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.head = nn.Embedding(9, 6), nn.Linear(6, 9)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> Output:
        decoded = input_ids if labels is None else labels.roll(1, 1)
        return Output(self.head(self.emb(decoded) + self.emb(input_ids).mean(1, keepdim=True)))


def ends(build: Any) -> tuple[nn.Module, nn.Module]:
    start, end = seeded(build, 0).double(), seeded(build, 1).double()
    return start, end


def at(build: Any, line: ls.Line, alpha: float) -> nn.Module:
    model: nn.Module = build().double().eval()
    model.load_state_dict(line.at(alpha))
    return model


IDS = classes(6, 7, seed=0, count=9)
LABELS = IDS.clone()
for row, first_left_out in enumerate((7, 4, 3, 6, 1, 2)):
    LABELS[row, first_left_out:] = -100


@pytest.mark.parametrize("loss", ["next_token", "model"])
def test_language_models_give_the_mean_over_all_tokens(loss: str) -> None:
    start, end = ends(TinyForCausalLM)
    line, data = ls.Line(start, end), [{"input_ids": IDS[i : i + 4], "labels": LABELS[i : i + 4]} for i in (0, 4)]
    found = ls.profile(start, line, data, loss=loss, alphas=GRID)
    with torch.no_grad():
        wanted = [float(at(TinyForCausalLM, line, a)(IDS, LABELS).loss) for a in GRID]
    np.testing.assert_allclose(found.loss, wanted, rtol=1e-12)
    assert ("batch" if loss == "model" else "sequence") in found.how["example"]


class MeanOverLabels(TinyForCausalLM):
    """Predicts the tags of all tokens."""

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> Output:
        logits = self.head(self.rnn(self.emb(input_ids))[0])
        if labels is None:
            return Output(logits)
        return Output(logits, F.cross_entropy(logits.flatten(0, 1), labels.flatten()))


class MeanOfMeans(TinyForCausalLM):
    """Means of sequences, averaged over the sequences."""

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> Output:
        logits = self.head(self.rnn(self.emb(input_ids))[0])
        if labels is None:
            return Output(logits)
        each = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        return Output(logits, (each.sum(1) / (labels != -100).sum(1)).mean())


@pytest.mark.parametrize(
    ("build", "counted"),
    [
        (TinyForCausalLM, lambda labels: labels[:, 1:].numel()),
        (MeanOverLabels, Tensor.numel),
        (MeanOfMeans, len),
    ],
)
def test_what_a_models_own_mean_is_over_shows_although_no_label_is_left_out(build: Any, counted: Any) -> None:
    """Batches of one length each: within a batch all three weigh alike, over the batches they do not."""
    start, end = ends(build)
    data = [
        {name: classes(count, length, seed=length + len(name), count=9) for name in ("input_ids", "labels")}
        for count, length in ((6, 12), (4, 5), (3, 8))
    ]
    line = ls.Line(start, end)
    curve = ls.profile(start, line, data, loss="model", alphas=GRID)
    weights = np.array([counted(batch["labels"]) for batch in data])
    for alpha, loss in zip(GRID, curve.loss, strict=True):
        with torch.no_grad():
            means = np.array([float(at(build, line, alpha)(**batch).loss) for batch in data])
        assert loss == pytest.approx((weights * means).sum() / weights.sum(), rel=1e-12)


@pytest.mark.parametrize("labels", [IDS, LABELS])
def test_labels_that_are_the_tokens_are_refused_with_the_choice(labels: Tensor) -> None:
    start, end = ends(TinyForCausalLM)
    with pytest.raises(ValueError, match=r"(?s)tokens themselves.*next_token.*shift the labels"):
        ls.profile(start, ls.Line(start, end), [{"input_ids": IDS, "labels": labels}], alphas=2)
    next_ones = torch.cat([IDS[:, 1:], torch.full((6, 1), -100)], 1)
    with pytest.raises(ValueError, match="next tokens already"):
        ls.profile(start, ls.Line(start, end), [{"input_ids": IDS, "labels": next_ones}], loss="next_token", alphas=2)


def test_encoder_decoders_are_given_their_labels() -> None:
    start, end = ends(TinySeq2Seq)
    line, labels = ls.Line(start, end), classes(6, 7, seed=3, count=9)
    found = ls.profile(start, line, [{"input_ids": IDS, "labels": labels}], alphas=GRID)
    with torch.no_grad():
        outputs = [at(TinySeq2Seq, line, a)(IDS, labels).logits for a in GRID]
    wanted = [float(F.cross_entropy(each.flatten(0, 1), labels.flatten())) for each in outputs]
    np.testing.assert_allclose(found.loss, wanted, rtol=1e-12)


def test_what_is_left_out_is_no_example_and_weights_have_the_error_of_a_ratio() -> None:
    x, y, w = random(40, 3, seed=0), classes(40, seed=1, count=4), random(40, seed=2).abs()
    y[::3] = -100
    start, end = ends(lambda: nn.Linear(3, 4))
    line = ls.Line(start, end)
    found = ls.profile(start, line, [(x[:15], y[:15]), (x[15:], y[15:])], alphas=GRID)
    with torch.no_grad():
        each = np.array(
            [F.cross_entropy(x @ s["weight"].T + s["bias"], y, reduction="none") for s in map(line.at, GRID)]
        )
    kept = (y != -100).numpy()
    np.testing.assert_allclose(found.loss, each[:, kept].mean(1), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(each[:, kept]), rtol=1e-9)
    assert found.examples == kept.sum()
    loss = ls.Loss("weighed", lambda z, t: F.cross_entropy(z, t[0], reduction="none"), weights=lambda t: t[1])
    weighed = ls.profile(start, line, [(x[:15], (y[:15], w[:15])), (x[15:], (y[15:], w[15:]))], loss=loss, alphas=GRID)
    weight = w.numpy()
    mean = each @ weight / weight.sum()
    np.testing.assert_allclose(weighed.loss, mean, rtol=1e-12)
    np.testing.assert_allclose(weighed.covariance, np.cov(weight * (each - mean[:, None]) / weight.mean()), rtol=1e-9)
    with pytest.raises(ValueError, match="at least one example that counts"):
        ls.profile(start, line, [(x, torch.full_like(y, -100))], alphas=2)


def test_images_have_their_classes_second_and_shapes_that_fit_both_ways_are_refused() -> None:
    start, end = ends(lambda: nn.Conv2d(3, 6, 1))
    line, x, y = ls.Line(start, end), random(4, 3, 6, 6, seed=0), classes(4, 6, 6, seed=1, count=6)
    with pytest.raises(ValueError, match="class_dim=1"):
        ls.profile(start, line, [(x, y)], alphas=2)
    y[:, 0] = 255
    found = ls.profile(start, line, [(x, y)], loss=ls.Loss("cross_entropy", ignore=255, class_dim=1), alphas=2)
    with torch.no_grad():
        wanted = [float(F.cross_entropy(model(x), y, ignore_index=255)) for model in (start, end)]
    np.testing.assert_allclose(found.loss, wanted, rtol=1e-12)
    with pytest.raises(ValueError, match=r"(?s)255 \(6 such labels of 30\).*batch 1.*ignore=255"):
        ls.profile(start, line, [(x[:1, :, :5], y[:1, 1:]), (x[:1, :, :5], y[:1, :5])], alphas=2)


class TimeFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(3, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.rnn(x)[0])
        return outputs


def test_time_first_is_refused_until_the_examples_are_named() -> None:
    start, end = ends(TimeFirst)
    line, x, y = ls.Line(start, end), random(7, 6, 3, seed=0), classes(7, 6, seed=1, count=4)
    y[4:, ::2] = -100
    with pytest.raises(ValueError, match="batch_dim=1"):
        ls.profile(start, line, [(x, y)], alphas=2)
    found = ls.profile(start, line, [(x, y)], loss=ls.Loss("cross_entropy", batch_dim=1), alphas=2)
    with torch.no_grad():
        each = [F.cross_entropy(model(x).permute(1, 2, 0), y.T, reduction="none").sum(1) for model in (start, end)]
    wanted = [float((one / (y.T != -100).sum(1)).mean()) for one in each]
    np.testing.assert_allclose(found.loss, wanted, rtol=1e-12)
    assert found.examples == 6


class SelfDifferentiating(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))

    def forward(self, t: Tensor) -> Tensor:
        u = self.net(t.requires_grad_())
        return torch.autograd.grad(u.sum(), t, create_graph=True)[0] + u


def test_networks_that_differentiate_themselves_leave_the_inputs_as_they_were() -> None:
    start, end = ends(SelfDifferentiating)
    line, t = ls.Line(start, end), torch.linspace(0, 1, 9).double()[:, None]
    found = ls.profile(start, line, [(t, torch.zeros_like(t))], loss="squared_error", alphas=GRID)
    wanted = [float(at(SelfDifferentiating, line, a)(t.clone()).detach().square().mean()) for a in GRID]
    np.testing.assert_allclose(found.loss, wanted, rtol=1e-10)
    assert not t.requires_grad


def test_an_exception_of_the_model_names_batch_alpha_and_function() -> None:
    class Broken(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if x.max() > 9:
                raise KeyError("too large")
            return super().forward(x)

    start, end = ends(lambda: Broken(2, 3))
    data = [(torch.zeros(4, 2).double(), classes(4, seed=0)), (torch.full((4, 2), 10.0).double(), classes(4, seed=0))]
    with pytest.raises(
        ls.CallFailed, match=r"(?s)forward to work on batch 1 at α = 0 \(the start\).*KeyError in forward"
    ) as e:
        ls.profile(start, ls.Line(start, end), data, alphas=2, derivative=False)
    assert isinstance(e.value.__cause__, KeyError)
