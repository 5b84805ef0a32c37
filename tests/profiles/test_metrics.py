"""Metrics beside the loss: means over examples with their errors, from the same pass and under the same checks."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import generator
from torch import Tensor, nn

import lerpscape as ls

ALPHAS = [-0.25, 0.0, 0.3, 0.7, 1.0]


def ends(make: Any) -> tuple[nn.Module, nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return make().double(), make().double()


def classifier() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4))


def labelled(count: int = 23, size: int = 6, left_out: int = 0) -> list[tuple[Tensor, Tensor]]:
    inputs, targets = (
        torch.randn(count, 5, generator=generator(1)).double(),
        torch.randint(0, 4, (count,), generator=generator(2)),
    )
    targets[:left_out] = -100
    return list(zip(inputs.split(size), targets.split(size), strict=True))


def margin(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.gather(1, targets.clamp(min=0)[:, None])[:, 0] - outputs.mean(1)


def by_hand(model: nn.Module, line: ls.Line, data: Any, values: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error at every α of what `values` gives for each example, NaN left out, in a plain loop."""
    rows = []
    for alpha in ALPHAS:
        model.load_state_dict(line.at(alpha))
        with torch.no_grad():
            each = torch.cat([values(model(x), y) for x, y in data]).double()
        each = each[~each.isnan()]
        rows.append((float(each.mean()), float(each.std() / len(each) ** 0.5)))
    return np.array(rows).T  # type: ignore[return-value]


@pytest.mark.parametrize("left_out", [0, 9])
@pytest.mark.parametrize("workers", [1, 2])
def test_metrics_are_means_over_the_examples_that_count(left_out: int, workers: int) -> None:
    (start, end), data = ends(classifier), labelled(left_out=left_out)
    line = ls.Line(start, end)
    asked = {"accuracy": "accuracy", "margin": margin, "top2": _top2}
    found = ls.profile(classifier().double(), line, data, alphas=ALPHAS, metrics=asked, workers=workers)
    for name, values in {"accuracy": _hit, "margin": margin, "top2": _top2}.items():
        model = classifier().double()
        mean, error = by_hand(
            model, line, data, lambda z, y, f=values: torch.where(y >= 0, f(z, y).double(), torch.nan)
        )
        np.testing.assert_allclose(found.metrics[name].values, mean, rtol=1e-12, atol=1e-15)
        # sums of squares are rounded at 1e-16 of their size
        np.testing.assert_allclose(found.metrics[name].errors, error, rtol=1e-7, atol=1e-15)
    assert found.accuracy is not None
    np.testing.assert_array_equal(found.metrics["accuracy"].values, found.accuracy)
    assert list(found.metrics) == list(asked)


def _hit(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.argmax(1) == targets


def _top2(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.topk(2, 1).indices == targets[:, None]).any(1)


# Perplexity ----------------------------------------------------------------------------------------------------------


class Bigram(nn.Module):
    """Logits of the next token from the token alone."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 7)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.table(tokens)
        return logits


def sentences(next_token: bool) -> list[tuple[Tensor, Tensor]]:
    """Sequences of which other numbers of tokens count; one counts nowhere."""
    tokens = torch.randint(0, 7, (11, 6), generator=generator(5))
    labels = tokens.clone() if next_token else torch.randint(0, 7, (11, 6), generator=generator(6))
    for row in range(11):
        labels[row, 1 + row % 6 :] = -100
    labels[4] = -100
    return list(zip(tokens.split(4), labels.split(4), strict=True))


@pytest.mark.parametrize(
    "loss",
    ["next_token", "cross_entropy", ls.Loss("cross_entropy", weights="positions")],
    ids=["next", "mean", "token"],
)
def test_perplexity_is_over_tokens_however_the_loss_is_averaged(loss: Any) -> None:
    start, end = ends(Bigram)
    data, line = sentences(loss == "next_token"), ls.Line(start, end)
    found = ls.profile(Bigram().double(), line, data, loss=loss, alphas=ALPHAS, metrics=["perplexity"])
    model = Bigram().double()
    for i, alpha in enumerate(ALPHAS):
        model.load_state_dict(line.at(alpha))
        with torch.no_grad():
            logits = torch.cat([model(x) for x, _ in data])
        labels = torch.cat([y for _, y in data])
        if loss == "next_token":
            logits, labels = logits[:, :-1], labels[:, 1:]
        sums = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum(1)  # ignores −100
        counts = (labels >= 0).sum(1).double()
        sums, counts = sums[counts > 0], counts[counts > 0]
        mean = float(sums.sum() / counts.sum())
        assert found.metrics["perplexity"].values[i] == pytest.approx(np.exp(mean), rel=1e-12)
        n = len(sums)
        residuals = (sums - mean * counts) / counts.mean()  # of a ratio of two means
        error = np.exp(mean) * float(residuals.square().sum() / (n - 1) / n) ** 0.5
        assert found.metrics["perplexity"].errors[i] == pytest.approx(error, rel=1e-9)


def test_the_error_of_perplexity_is_its_spread_over_samples() -> None:
    generator_of_samples = np.random.default_rng(0)
    spread, said = [], []
    for _ in range(300):
        targets = torch.tensor(generator_of_samples.integers(0, 4, 200))
        line = ls.Line({"bias": torch.zeros(4).double()}, {"bias": torch.tensor([1.0, 0.5, 0.0, -1.0]).double()})
        data = [(torch.zeros(200, 1).double(), targets)]
        found = ls.profile(_Constant(), line, data, alphas=2, derivative=False, metrics=["perplexity"], progress=False)
        spread.append(found.metrics["perplexity"].values[1])
        said.append(found.metrics["perplexity"].errors[1])
    # 300 samples give a standard deviation to 4 %; the delta method is good to 1/√200
    assert np.mean(said) == pytest.approx(np.std(spread), rel=0.15)


class _Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(4).double())

    def forward(self, inputs: Tensor) -> Tensor:
        return self.bias.expand(len(inputs), 4)


@pytest.mark.parametrize(
    ("loss", "metrics", "said"),
    [
        ("squared_error", ["perplexity"], "a loss that is −log p of labels"),
        ("squared_error", ["accuracy"], "a loss with correct predictions"),
        ("cross_entropy", ["acuracy"], "a metric by name: accuracy, perplexity"),
        ("cross_entropy", "accuracy", "metrics as a list of names"),
        ("cross_entropy", {"f": 3}, "the metric 'f' as a name, a function"),
        ("cross_entropy", {"loss": margin}, "names for metrics that nothing else"),
        ("cross_entropy", {"f": "model"}, "a function of outputs and targets as the metric"),
        ("cross_entropy", {"f": lambda z, y: z.mean()}, r"a tensor of shape \(\) from 'f'"),
        ("cross_entropy", {"f": lambda z, y: z}, r"a tensor of shape \(\d+, 4\) from 'f'"),
        ("cross_entropy", {"f": lambda z, y: z[1:, 0]}, "values, one for each example"),
        ("cross_entropy", {"f": lambda z, y: 1 / 0}, "the metric 'f' to work on"),
        ("cross_entropy", {"f": lambda z, y: z[:, 0] - z[:, 0].mean()}, "does not depend on the others"),
        ("cross_entropy", {"f": lambda z, y: z[:, 0].mean().expand(len(z))}, "does not depend on the others"),
        ("cross_entropy", {"f": lambda z, y: z[:, 0].argsort().double()}, "does not depend on the others"),
        (
            "cross_entropy",
            {"f": ls.Loss("f", lambda z, y: z[:, 0], weights=lambda y: y.double() - 1)},
            "finite weights ≥ 0",
        ),
    ],
)
def test_what_is_no_mean_over_examples_is_refused(loss: str, metrics: Any, said: str) -> None:
    start, end = ends(classifier)
    data = labelled() if loss == "cross_entropy" else [(x, torch.zeros(len(x), 4).double()) for x, _ in labelled()]
    with pytest.raises((ValueError, TypeError, ls.CallFailed), match=said):
        ls.profile(classifier().double(), ls.Line(start, end), data, loss=loss, alphas=3, metrics=metrics)


def test_one_value_per_batch_is_taken_batch_by_batch() -> None:
    """A metric that compares the examples of a batch is what it is in the caller's own batches, weighed as said."""
    (start, end), data = ends(classifier), labelled()
    line = ls.Line(start, end)

    def spread(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.std()

    sized = ls.Loss("spread", spread, per="batch", weights=lambda y: torch.ones(len(y)))
    found = ls.profile(classifier().double(), line, data, alphas=12, metrics={"spread": sized})
    model = classifier().double()
    model.load_state_dict(line.at(1.0))
    with torch.no_grad():
        expected = sum(len(x) * float(model(x).std()) for x, _ in data) / 23
    assert found.metrics["spread"].values[-1] == pytest.approx(expected, rel=1e-12)
    assert found.how["plan"].endswith("a metric is one of whole batches")


def test_a_metric_that_writes_to_what_it_is_given_changes_nothing() -> None:
    (start, end), data = ends(classifier), labelled()
    before = [(x.clone(), y.clone()) for x, y in data]

    def writing(outputs: Tensor, targets: Tensor) -> Tensor:
        found = outputs.gather(1, targets[:, None])[:, 0].clone()
        outputs.numpy()[:] = 0.0  # without a trace in the tensor's version
        targets.zero_()
        return found

    def writing_loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs.mul_(2), targets, reduction="none")

    plain = {"alphas": 12, "derivative": False, "loss": writing_loss}
    line = ls.Line(start, end)
    alone = ls.profile(classifier().double(), line, data, **plain)
    found = ls.profile(
        classifier().double(), line, data, metrics={"first": writing, "margin": margin, "last": writing}, **plain
    )
    clean = ls.profile(classifier().double(), line, data, metrics={"margin": margin}, alphas=12)
    np.testing.assert_allclose(found.loss, alone.loss, rtol=1e-14)
    np.testing.assert_allclose(found.metrics["margin"].values, clean.metrics["margin"].values, rtol=1e-12)
    np.testing.assert_array_equal(found.metrics["first"].values, found.metrics["last"].values)
    for (x, y), (old_x, old_y) in zip(data, before, strict=True):
        assert x.equal(old_x) and y.equal(old_y)


def test_a_model_whose_examples_influence_each_other_has_metrics_by_batch() -> None:
    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 4)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.layer(inputs - inputs.mean(0))

    (start, end), data = ends(Centred), labelled()
    line = ls.Line(start, end)
    found = ls.profile(
        Centred().double(), line, data, alphas=ALPHAS, metrics={"margin": margin, "accuracy": "accuracy"}
    )
    model = Centred().double()
    model.load_state_dict(line.at(ALPHAS[2]))
    with torch.no_grad():
        parts = [float(margin(model(x), y).sum()) for x, y in data]
    sizes = np.array([len(x) for x, _ in data])
    mean = sum(parts) / 23
    assert found.metrics["margin"].values[2] == pytest.approx(mean, rel=1e-12)
    residuals = (np.array(parts) - mean * sizes) / sizes.mean()
    assert found.metrics["margin"].errors[2] == pytest.approx(
        float(np.sqrt(np.square(residuals).sum() / (len(data) - 1) / len(data))), rel=1e-9
    )


def test_metrics_are_saved_and_resumed(tmp_path: Path) -> None:
    (start, end), data = ends(classifier), labelled()
    line, asked = ls.Line(start, end), {"margin": margin, "perplexity": "perplexity"}
    whole = ls.profile(classifier().double(), line, data, alphas=ALPHAS, metrics=asked)
    whole.save(tmp_path / "profile.json")
    assert ls.Profile.load(tmp_path / "profile.json") == whole
    calls = []

    def stopping(done: int, total: int) -> None:
        calls.append(done)
        if done >= 9:
            raise KeyboardInterrupt

    file = tmp_path / "part.partial"
    with pytest.raises(KeyboardInterrupt):
        ls.profile(classifier().double(), line, data, alphas=ALPHAS, metrics=asked, partial=file, progress=stopping)
    again = ls.profile(classifier().double(), line, data, alphas=ALPHAS, metrics=asked, partial=file)
    for name, curve in whole.metrics.items():
        np.testing.assert_allclose(again.metrics[name].values, curve.values, rtol=1e-13)
        np.testing.assert_allclose(again.metrics[name].errors, curve.errors, rtol=1e-9)
    with pytest.raises(ls.PartialMismatch, match="metrics"):
        ls.profile(classifier().double(), line, data, alphas=ALPHAS, metrics={"margin": _hit}, partial=file)


def test_metrics_are_drawn_reported_and_tabled(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    (start, end), data = ends(classifier), labelled()
    asked = {"margin": margin, "perplexity": "perplexity"}
    found = ls.profile(classifier().double(), ls.Line(start, end), data, alphas=5, metrics=asked, label="train")
    figure = found.figure(beside=[found])
    assert [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel() in asked] == list(asked)
    page = ls.report([found], tmp_path / "page.html").read_text()
    shown = f"{found.metrics['perplexity'].values[0]:.5g} ± {found.metrics['perplexity'].errors[0]:.2g}"
    assert "perplexity at α = 0" in page and shown in page
    assert list(found.to_pandas()["margin_error"]) == found.metrics["margin"].errors.tolist()


# Adaptive points, batch norm, torchmetrics ---------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [ls.EndStatistics(), ls.BatchStatistics(), "recalibrate"], ids=str)
def test_metrics_at_adaptive_points_with_batch_norm(policy: Any) -> None:
    def normed() -> nn.Module:
        return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))

    (start, end), data = ends(normed), labelled()
    policy = ls.Recalibrate(data) if policy == "recalibrate" else policy
    asked = {"nats": "cross_entropy", "perplexity": "perplexity"}
    found = ls.profile(
        normed().double(),
        ls.Line(start, end),
        data,
        alphas="adaptive",
        precision=0.05,
        metrics=asked,
        batch_norm=policy,
    )
    np.testing.assert_allclose(found.metrics["nats"].values, found.loss, rtol=1e-12)
    np.testing.assert_allclose(found.metrics["nats"].errors, found.loss_error, rtol=1e-7)
    np.testing.assert_allclose(found.metrics["perplexity"].values, np.exp(found.loss), rtol=1e-12)


class Counting:
    """A metric as torchmetrics has them: it counts batch after batch."""

    def __init__(self, root: bool = False) -> None:
        self.root, self.total, self.count = root, torch.zeros(()), 0

    def reset(self) -> None:
        self.total, self.count = torch.zeros(()), 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.total = self.total + (outputs[:, 0] - targets).square().sum()
        self.count += len(targets)

    def compute(self) -> Tensor:
        mean = self.total / self.count
        return mean.sqrt() if self.root else mean


def test_a_metric_object_is_taken_example_by_example() -> None:
    (start, end), data = ends(classifier), labelled()
    line, own = ls.Line(start, end), Counting()
    own.update(torch.ones(1, 4), torch.zeros(1))
    found = ls.profile(classifier().double(), line, data, alphas=ALPHAS, metrics={"square": own})
    mean, error = by_hand(classifier().double(), line, data, lambda z, y: (z[:, 0] - y).square())
    np.testing.assert_allclose(found.metrics["square"].values, mean, rtol=1e-12)
    np.testing.assert_allclose(found.metrics["square"].errors, error, rtol=1e-7)
    assert own.count == 1 and float(own.total) == 1
    with pytest.raises(ValueError, match="a metric 'root' that is a mean over examples"):
        ls.profile(classifier().double(), line, data, alphas=ALPHAS, metrics={"root": Counting(root=True)})


def test_torchmetrics_by_function_and_by_object() -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    classification = torchmetrics.functional.classification
    (start, end), data = ends(classifier), labelled()
    line = ls.Line(start, end)
    accuracy = partial(torchmetrics.classification.MulticlassAccuracy, 4)
    tokens = partial(classification.multiclass_accuracy, num_classes=4, average="micro", multidim_average="samplewise")
    asked = {
        "micro": accuracy(average="micro"),
        "samplewise": lambda z, y: tokens(z[:, :, None], y[:, None]),
        "error": torchmetrics.classification.MulticlassHingeLoss(4),
    }
    found = ls.profile(classifier().double(), line, data, alphas=ALPHAS, metrics=asked | {"accuracy": "accuracy"})
    for name in ("micro", "samplewise"):
        np.testing.assert_allclose(found.metrics[name].values, found.metrics["accuracy"].values, rtol=1e-6)
        np.testing.assert_allclose(found.metrics[name].errors, found.metrics["accuracy"].errors, rtol=1e-6)
    whole = torchmetrics.classification.MulticlassHingeLoss(4)
    model = classifier().double()
    model.load_state_dict(line.at(1.0))
    with torch.no_grad():
        for x, y in data:
            whole.update(model(x), y)
    assert found.metrics["error"].values[-1] == pytest.approx(float(whole.compute()), rel=1e-6)
    for macro in (
        accuracy(average="macro"),
        torchmetrics.classification.MulticlassF1Score(4),
        torchmetrics.classification.MulticlassAUROC(4),
        accuracy(average=None),
    ):
        with pytest.raises((ValueError, TypeError, ls.CallFailed), match="'macro'"):
            ls.profile(classifier().double(), line, data, alphas=3, metrics={"macro": macro})
    # all predictions are right on every example that is tried: a macro average is then the mean as well
    separable = [(F.one_hot(y.clamp(0), 5).double() * 9, y) for _, y in labelled()]
    solved = {"weight": torch.eye(4, 5).double()}
    away = {"weight": torch.eye(4, 5).double() * 2}
    with pytest.raises(ValueError, match="'macro' that is a mean over examples"):
        ls.profile(
            nn.Linear(5, 4, bias=False).double(),
            ls.Line(solved, away),
            separable,
            alphas=3,
            metrics={"macro": accuracy(average="macro")},
        )
