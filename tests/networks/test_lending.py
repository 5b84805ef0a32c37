"""After every call a model is what it was, object by object; at every α it begins from the same state."""

from __future__ import annotations

import contextlib
import copy
import threading
import types
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lerpscape as ls
from lerpscape.networks.lending import Lender

ALPHAS = np.linspace(0.0, 1.0, 8)
generator = torch.Generator().manual_seed(3)
X, Y = torch.randn(24, 6, generator=generator), torch.arange(24) % 3
DATA = [(X[:8], Y[:8]), (X[8:16], Y[8:16]), (X[16:], Y[16:])]


class Net(nn.Module):
    """Two layers and whatever a function does with them."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor], prepare: Callable[[Any], object] = id) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.run = run
        prepare(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


class Merging(nn.Linear):
    """A low-rank update that is merged into the weight in evaluation, as loralib does."""

    def __init__(self) -> None:
        super().__init__(6, 6)
        self.a, self.b = nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.randn(6, 2))
        self.merged = False

    def train(self, mode: bool = True) -> Merging:
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * (self.b @ self.a).data
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight if self.merged else self.weight + self.b @ self.a
        return F.linear(x, weight, self.bias)


class Freezing(nn.Sequential):
    """A method train() that only sets modes."""

    def train(self, mode: bool = True) -> Freezing:
        super().train(mode)
        self[0].training = False
        return self


def plain(net: Any, x: Tensor) -> Tensor:
    return net.two(torch.tanh(net.one(x)))


def under_two_names(net: Any) -> None:
    net.again = net.one


def clamped(net: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        net.one.weight.clamp_(-0.1, 0.1)
    return plain(net, x)


def clamped_data(net: Any, x: Tensor) -> Tensor:
    net.two.bias.data.clamp_(-0.1, 0.1)
    return plain(net, x)


def caching(net: Any, x: Tensor) -> Tensor:
    net.hidden = net.one(x)
    net.cache["last"].append(net.hidden)
    net.cache["mask"].mul_(2)
    net.notes.count += 1
    return net.two(torch.tanh(net.hidden))


def counting(net: Any, x: Tensor) -> Tensor:
    net.calls.add_(1)
    net.count += 1
    return plain(net, x)


def hooking(net: Any, x: Tensor) -> Tensor:
    if not net.one._forward_hooks:
        net.one.register_forward_hook(lambda *_: None)
        net.register_buffer("late", x.mean())
        net.two.requires_grad_(False)
    return plain(net, x)


def reassigning(net: Any, x: Tensor) -> Tensor:
    net.two.weight = nn.Parameter(net.two.weight.detach() * 1.0)
    return plain(net, x)


def flipping(net: Any, x: Tensor) -> Tensor:
    net.one.training = not net.one.training
    net.train(False)
    net.one.train()
    return plain(net, x)


def by_list(net: Any, x: Tensor) -> Tensor:
    weight, (bias, _) = net.weights[0], net.pair
    return net.two(torch.tanh(F.linear(x, weight, bias) + F.linear(x, net.view)))


def aliases(net: Any) -> None:
    net.weights, net.pair, net.view = [net.one.weight], (net.one.bias, 1), net.one.weight.detach().T


def masked(net: Any, x: Tensor) -> Tensor:
    return net.two(torch.tanh(net.one(x)) * net.mask)


def noisy(net: Any, x: Tensor) -> Tensor:
    return plain(net, x) + torch.randn((), generator=net.draws)


def with_cache(net: Any) -> None:
    net.cache = {"last": [], "mask": torch.ones(3)}
    net.notes = types.SimpleNamespace(count=0)


def layers(*modules: nn.Module) -> nn.Module:
    return nn.Sequential(*modules, nn.Tanh(), nn.Linear(6, 3))


def normed(norm: Callable[..., nn.Module]) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return layers(norm(nn.Linear(6, 6)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x[None])[0][0])


MODELS: dict[str, Callable[[], nn.Module]] = {
    "under two names": lambda: Net(plain, under_two_names),
    "old weight norm": lambda: normed(nn.utils.weight_norm),
    "merging": lambda: layers(Merging()),
    "freezing": lambda: Freezing(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)),
    "clamped": lambda: Net(clamped),
    "clamped data": lambda: Net(clamped_data),
    "caching": lambda: Net(caching, with_cache),
    "counting": lambda: Net(counting, lambda net: setattr(net, "count", 0)),
    "hooking": lambda: Net(hooking),
    "reassigning": lambda: Net(reassigning),
    "flipping": lambda: Net(flipping),
    "by list": lambda: Net(by_list, aliases),
    "masked": lambda: Net(masked, lambda net: setattr(net, "mask", torch.arange(6) / 3)),
    "recurrent": Recurrent,
}


def made(name: str) -> tuple[nn.Module, nn.Module]:
    pair = []
    for seed in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            pair.append(MODELS[name]())
    pair[0].train()
    return pair[0], pair[1]


def everything(model: nn.Module) -> dict[str, Any]:
    """Every object that the modules hold, also in their dictionaries and lists, and what numbers are in it."""
    seen: dict[str, Any] = {}

    def note(label: str, value: Any) -> None:
        numbers = value.detach().clone() if isinstance(value, Tensor) else None
        seen[label] = value, getattr(value, "_version", None), numbers
        parts = vars(value) if isinstance(value, types.SimpleNamespace) else value
        if isinstance(parts, (dict, list, tuple)):
            for key, each in parts.items() if isinstance(parts, dict) else enumerate(parts):
                note(f"{label}.{key}", each)

    for path, module in model.named_modules(remove_duplicate=False):
        for name, value in vars(module).items():
            note(f"{path}:{name}", value)
    return seen


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert list(before) == list(after)
    for label, (value, version, numbers) in before.items():
        now, now_version, now_numbers = after[label]
        assert value is now and version == now_version, label
        assert numbers is None or torch.equal(numbers, now_numbers), label


def measured(model: nn.Module, line: ls.Line, **options: Any) -> Any:
    return ls.profile(model, line, DATA, alphas=ALPHAS, progress=False, **options)


class Interrupt:
    """A loss that is interrupted in its third call."""

    calls = 0

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == 3:
            raise KeyboardInterrupt
        return outputs.square().sum(1)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_what_it_was_and_every_alpha_is_right(name: str) -> None:
    model, other = made(name)
    line = ls.Line(model, other)
    ends = [{key: tensor.clone() for key, tensor in end.tensors.items()} for end in (line.start, line.end)]
    before = everything(model)
    found = measured(model, line, derivative=False)
    assert_same(before, everything(model))
    for call in (
        lambda: measured(model, line),
        lambda: ls.example_curves(model, line, DATA, alphas=3),
        lambda: ls.gauss_length(model, line, DATA, method="polygon"),
        lambda: ls.geometry.feature_linearity(model, line, DATA),
        lambda: measured(model, line, loss=Interrupt()),
        lambda: ls.profile(model, line, [(torch.ones(2, 5), Y[:2])], alphas=3),
        lambda: ls.certify(model, line, DATA, budget=2),
    ):
        with contextlib.suppress(KeyboardInterrupt, TypeError, ValueError, RuntimeError, AttributeError):
            call()  # what a measurement refuses is another test's matter
        assert_same(before, everything(model))
    for end, tensors in zip((line.start, line.end), ends, strict=True):
        assert all(torch.equal(tensor, end.tensors[key]) for key, tensor in tensors.items())
    for alpha, loss in zip(ALPHAS, found.loss, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            probe = MODELS[name]()
        if name == "merging":
            probe.train()
        probe.load_state_dict({key: tensor.clone() for key, tensor in line.at(float(alpha)).items()})
        probe.eval()
        with torch.no_grad():
            losses = [F.cross_entropy(probe(x), y, reduction="none") for x, y in DATA]
        # float32 sums of 24 losses in another order, and layers shared by linearity
        assert loss == pytest.approx(float(torch.cat(losses).double().mean()), rel=2e-5), alpha


def test_a_model_that_merges_has_no_wrong_derivative() -> None:
    model, other = made("merging")
    line = ls.Line(model, other)
    step = 1e-5
    alphas = [0.0, 0.5 - step, 0.5, 0.5 + step, 1.0]
    found = ls.profile(model, line, DATA, alphas=alphas, dtype=torch.float64, progress=False)
    if found.derivative is not None:
        # a central difference is right to step² times a third derivative
        assert found.derivative[2] == pytest.approx((found.loss[3] - found.loss[1]) / (2 * step), rel=1e-4)


def running(net: Any, x: Tensor) -> Tensor:
    hidden = net.one(x)
    net.mean = 0.5 * net.mean + 0.5 * hidden.mean(0)
    return net.two(hidden - net.mean)


def first_batch_decides(net: Any, x: Tensor) -> Tensor:
    hidden = net.one(x)
    if net.calls.item() == 0:
        net.two.bias.data.copy_(-hidden.mean(0)[:3])
        net.calls.fill_(1)
    return net.two(hidden)


def counted(net: Any, x: Tensor) -> Tensor:
    net.count += 1
    return plain(net, x) * net.count


@pytest.mark.parametrize(
    ("run", "prepare"),
    [
        (running, lambda net: setattr(net, "mean", torch.zeros(6))),
        (first_batch_decides, id),
        (counted, lambda net: setattr(net, "count", 0)),
    ],
)
def test_what_remembers_batches_is_refused_or_begins_anew_at_every_alpha(run: Any, prepare: Any) -> None:
    torch.manual_seed(0)
    model, other = Net(run, prepare), Net(run, prepare)
    line = ls.Line(model, other)
    for alphas in (8, 3):
        with pytest.raises(ValueError, match="does not depend on the batches before it"):
            ls.profile(model, line, DATA, alphas=alphas, progress=False)
    together = ls.profile(model, line, [(X, Y)], alphas=8, progress=False)
    for alpha, loss in zip(together.alphas, together.loss, strict=True):
        probe = copy.deepcopy(model).eval()
        probe.load_state_dict(line.at(float(alpha)))
        with torch.no_grad():
            assert loss == pytest.approx(float(F.cross_entropy(probe(X), Y)), rel=2e-5)


def test_a_models_own_generator_draws_the_same_at_every_alpha() -> None:
    torch.manual_seed(0)
    model, other = (Net(noisy, lambda net: setattr(net, "draws", torch.Generator().manual_seed(5))) for _ in range(2))
    line, state = ls.Line(model, other), model.draws.get_state()
    found = ls.profile(model, line, [(X, Y)], alphas=3, loss=lambda z, _: z.sum(1), progress=False)
    again = ls.profile(model, line.reversed(), [(X, Y)], alphas=3, loss=lambda z, _: z.sum(1), progress=False)
    np.testing.assert_allclose(found.loss, again.loss[::-1], rtol=1e-5)
    assert torch.equal(model.draws.get_state(), state)


def test_training_goes_on_with_the_optimisers_own_tensors() -> None:
    model, other = made("under two names")
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    measured(model, ls.Line(model, other))
    before = model.again.weight.detach().clone()
    F.cross_entropy(model(X), Y).backward()
    optimiser.step()
    assert model.again.weight is model.one.weight
    assert not torch.equal(model.again.weight, before)


def test_a_view_that_cannot_follow_its_weights_and_torchscript_are_refused() -> None:
    model = nn.Linear(2, 2)
    model.part = model.weight.detach()[0]
    with (
        pytest.raises(TypeError, match="Compute it in forward"),
        Lender(model).lend({"weight": torch.ones(2, 2).T.contiguous().T, "bias": torch.ones(2)}),
    ):
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.trace(nn.Linear(6, 3), X)
    line = ls.Line(nn.Linear(6, 3), nn.Linear(6, 3))
    with pytest.raises(TypeError, match="compiled by TorchScript"):
        ls.profile(scripted, line, DATA)
    assert scripted.training


def test_threads_measure_one_model_or_two_that_share_layers_one_after_the_other() -> None:
    model, other = made("under two names")
    around = nn.Sequential(model, nn.Identity())  # shares all of it
    lines = [ls.Line(model, other), ls.Line(around, nn.Sequential(other, nn.Identity()))]
    serial = [measured(each, line).loss for each, line in zip((model, around), lines, strict=True)]
    before, found, state = everything(around), [], torch.get_rng_state()

    def work(place: int) -> None:
        found.extend((index, measured((model, around)[index], lines[index]).loss) for index in [place, 1 - place] * 3)

    threads = [threading.Thread(target=work, args=(place,)) for place in (0, 1)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(found) == 12
    for index, loss in found:
        np.testing.assert_array_equal(loss, serial[index])
    assert_same(before, everything(around))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.backends.mha.get_fastpath_enabled()


def test_an_interrupt_releases_the_model_for_other_threads() -> None:
    model, other = made("counting")
    line = ls.Line(model, other)
    with pytest.raises(KeyboardInterrupt):
        measured(model, line, loss=Interrupt())
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(measured(model, line)), daemon=True)
    thread.start()
    thread.join(60)
    assert found
