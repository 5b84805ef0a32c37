"""What a model or a loss writes to its batch changes neither the data nor the next α; nor do sizes of batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import assert_same, batches, by_graph, by_module, classes, ends, random
from torch import Tensor, nn

import lerpscape as ls
from lerpscape.networks.batches import batch_of
from lerpscape.profiles.examples import example_curves

INPUTS, TARGETS = random(23, 4, seed=0), classes(23, seed=1)


def in_place(inputs: Tensor) -> Tensor:
    return inputs.sub_(0.5).div_(0.25)


def by_data(inputs: Tensor) -> Tensor:
    inputs.data.sub_(0.5).div_(0.25)
    return inputs


def by_numpy(inputs: Tensor) -> Tensor:
    array = inputs.numpy()
    array -= 0.5
    array /= 0.25
    return inputs


def by_view(inputs: Tensor) -> Tensor:
    inputs.detach().view(-1)[:].sub_(0.5).div_(0.25)
    return inputs


class Normalising(nn.Module):
    def __init__(self, normalise: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.normalise = nn.Linear(4, 8), nn.Linear(8, 3), normalise

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.last(torch.tanh(self.first(self.normalise(inputs))))
        return outputs


class Popping(Normalising):
    """Takes a nested dict apart, and puts something into it."""

    def forward(self, inputs: dict[str, list[Tensor]]) -> Tensor:  # type: ignore[override]
        inputs["seen"] = []
        return super().forward(inputs["parts"].pop())


def writing_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    outputs.mul_(2)
    targets.add_(1).remainder_(3)
    return F.cross_entropy(outputs, targets, reduction="none")


def pure_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(2 * outputs, (targets + 1) % 3, reduction="none")


# With 5 points the module computes all of them; with 30 its graph would.
@pytest.mark.parametrize("points", [5, 30])
@pytest.mark.parametrize("write", [in_place, by_data, by_numpy, by_view])
def test_a_forward_that_writes_to_its_input_sees_the_same_data_at_every_alpha(
    write: Callable[[Tensor], Tensor], points: int
) -> None:
    start, end = ends(lambda: Normalising(lambda inputs: (inputs - 0.5) / 0.25))
    line, data = ls.Line(start, end), batches(INPUTS.clone(), TARGETS)
    expected = ls.profile(start, line, data, alphas=points, progress=False)
    model = Normalising(write).double()
    found = ls.profile(model, line, data, alphas=points, progress=False)
    # The same operations in float64, on batches cut otherwise.
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-12)
    np.testing.assert_allclose(found.derivative, expected.derivative, rtol=1e-9)
    curves = example_curves(model, line, data, alphas=points, progress=False)
    np.testing.assert_allclose(curves.mean, expected.loss, rtol=1e-12)
    assert torch.cat([inputs for inputs, _ in data]).equal(INPUTS)


@pytest.mark.parametrize("points", [5, 30])
def test_a_loss_that_writes_to_outputs_and_targets_does_so_once(points: int) -> None:
    start, end = ends(lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
    line, data = ls.Line(start, end), batches(INPUTS, TARGETS.clone())
    found, expected = (
        ls.profile(start, line, data, loss=loss, alphas=points, progress=False) for loss in (writing_loss, pure_loss)
    )
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-12)  # float64, other batches
    assert torch.cat([targets for _, targets in data]).equal(TARGETS)


def test_an_output_that_is_a_view_of_the_input_may_be_written_to_by_the_loss() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.randn(()))

        def forward(self, inputs: Tensor) -> Tensor:
            return inputs[:, :3]

    data = [(INPUTS.clone(), TARGETS)]
    start, end = ends(Shifted)
    options = {"alphas": 4, "derivative": False, "progress": False}
    found = ls.profile(start, ls.Line(start, end), data, loss=writing_loss, **options)  # type: ignore[arg-type]
    np.testing.assert_allclose(found.loss, float(pure_loss(INPUTS[:, :3], TARGETS).mean()), rtol=1e-12)
    assert data[0][0].equal(INPUTS)


def test_a_forward_that_takes_its_containers_apart_leaves_the_callers_whole() -> None:
    start, end = ends(lambda: Popping(lambda inputs: inputs))
    line = ls.Line(start, end)
    data = [({"inputs": {"parts": [inputs]}}, targets) for inputs, targets in batches(INPUTS, TARGETS)]
    found = ls.profile(start, line, data, alphas=4, progress=False)
    plain = Normalising(lambda inputs: inputs).double()
    expected = ls.profile(plain, line, batches(INPUTS, TARGETS), alphas=4, progress=False)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-12)
    assert all(list(batch["inputs"]) == ["parts"] and len(batch["inputs"]["parts"]) == 1 for batch, _ in data)


class Squeezing(nn.Sequential):
    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = super().forward(inputs).squeeze()
        return outputs


# Of 23 examples, groups of 2, of 11 and of 21 at most leave one over where they are filled one after the other.
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("batch_size", "group_size"), [(2, 2), (11, 23), (21, 11), (22, 22)])
@pytest.mark.parametrize("size", [3, 21, 23])
def test_examples_are_not_regrouped_to_a_single_one(size: int, batch_size: int, group_size: int, workers: int) -> None:
    start, end = ends(lambda: Squeezing(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
    line, data = ls.Line(start, end), batches(INPUTS, TARGETS, size)
    asked = {"alphas": 8, "progress": False}
    assert_same(
        by_graph(batch_size, group_size, start, line, data, workers=workers, **asked),
        by_module(start, line, data, **asked),
    )


def test_the_planner_does_not_regroup_where_a_single_example_means_something_else() -> None:
    class Summing(Squeezing):
        """Gives a vector for a batch of one, for which the loss has a meaning of its own."""

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.mean().reshape(1) if outputs.dim() == 1 else F.cross_entropy(outputs, targets, reduction="none")

    start, end = ends(lambda: Summing(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
    line, data = ls.Line(start, end), batches(INPUTS, TARGETS, 11)  # 11, 11 and 1
    asked = {"loss": loss, "alphas": 30, "progress": False}
    assert_same(ls.profile(start, line, data, **asked), by_module(start, line, data, **asked))  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [None, torch.float32])
@pytest.mark.parametrize("write", [lambda x: x.sub_(1), lambda x: x.data.sub_(1)], ids=["in place", "by .data"])
def test_writing_at_some_alphas_only_is_refused_where_the_data_would_change(
    write: Callable[[Tensor], Tensor], dtype: torch.dtype | None
) -> None:
    class Later(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            if not self.weight.equal(first.to(self.weight.dtype)):
                write(inputs)
            return super().forward(inputs)

    start, end = ends(lambda: Later(4, 3))
    first = start.weight.detach().clone()
    line, data = ls.Line(start, end), batches(INPUTS.clone(), TARGETS)
    asked = {"alphas": 4, "derivative": False, "dtype": dtype, "progress": False}
    if dtype is None:
        with pytest.raises(ls.NotRepeatable, match=r"(?s)altered in some calls only.*inputs\.clone\(\)"):
            ls.profile(start, line, data, **asked)  # type: ignore[arg-type]
        return
    found = ls.profile(start, line, data, **asked)  # type: ignore[arg-type]
    plain = nn.Linear(4, 3)
    for alpha, loss in zip(found.alphas, found.loss, strict=True):
        plain.load_state_dict(line.at(float(alpha)))
        outputs = plain((INPUTS - float(alpha > 0)).float())
        np.testing.assert_allclose(loss, F.cross_entropy(outputs, TARGETS).item(), rtol=1e-5)  # float32


@pytest.mark.parametrize(
    "inputs",
    [INPUTS[3:8], INPUTS.T.contiguous().T[3:8], random(5, 8, seed=2)[:, ::2], INPUTS[:1].expand(5, 4)],
    ids=["not aligned", "columns first", "every other column", "one row many times"],
)
def test_copies_lie_in_memory_as_the_data_do_in_later_calls(inputs: Tensor) -> None:
    """A kernel may round otherwise on another layout: a resumed measurement has copies at another α."""
    seen = []

    class Watching(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            seen.append((inputs.stride(), inputs.data_ptr() % 64))
            return super().forward(inputs)

    batch, model = batch_of((inputs, TARGETS[:5])), Watching(4, 3).double()
    for _ in range(3):
        batch.call(model)
    assert len(set(seen)) == 1
