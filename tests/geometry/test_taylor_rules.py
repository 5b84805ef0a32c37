"""Taylor coefficients through plain stacks are the derivatives that forward mode gives."""

import copy

import pytest
import torch
from cases import outputs_on_path
from layer_forms import ELEMENTWISE, layer_of
from numpy.testing import assert_allclose
from torch import Tensor, nn

import lerpscape as ls
from lerpscape.engine.model_on_path import ModelOnPath
from lerpscape.geometry import taylor_rules
from lerpscape.geometry.taylor_rules import _RULES, stack_of
from lerpscape.networks.batches import batch_of
from lerpscape.networks.layer_kinds import RELU
from lerpscape.networks.undisturbed import undisturbed

pytestmark = pytest.mark.kernels

DOUBLE = torch.float64

STACKS = {
    "relu": lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3)),
    "tanh": lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 3)),
    "mixed": lambda: nn.Sequential(
        nn.Flatten(),
        nn.Tanh(),
        nn.Sequential(nn.Linear(6, 8, bias=False), nn.Sigmoid(), nn.Dropout(0.5)),
        nn.Linear(8, 8),
        nn.LeakyReLU(0.3),
        nn.Identity(),
        nn.Linear(8, 4, bias=False),
        nn.Unflatten(1, (2, 2)),
        nn.Linear(2, 2),
        nn.Tanh(),
    ),
    "linear": lambda: nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3)),
    "one": lambda: nn.Linear(6, 3),
    "GELU by tanh": lambda: nn.Sequential(nn.Linear(6, 8), nn.GELU(approximate="tanh"), nn.Linear(8, 3)),
} | {
    kind.name: lambda kind=kind: nn.Sequential(nn.Linear(6, 8), layer_of(kind), nn.Linear(8, 7), layer_of(kind))
    for kind in ELEMENTWISE
    if kind in _RULES
}


def case(name: str, still: str = "") -> tuple[nn.Module, ls.Line, Tensor]:
    """A stack, a line on which every parameter moves but those whose name ends in `still`, and inputs."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = STACKS[name]().to(DOUBLE)
        end = copy.deepcopy(model)
        with torch.no_grad():
            for key, parameter in end.named_parameters():
                if not (still and key.endswith(still)):
                    parameter.add_(torch.randn_like(parameter))
        shape = (5, 2, 3) if name == "mixed" else (5, 6)
        return model, ls.Line(model, end), torch.randn(shape, dtype=DOUBLE)


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("still", ["", "bias", "weight", "0.weight", "0.bias"])
def test_the_same_derivatives_as_forward_mode(
    name: str, order: int, still: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "one" and still in ("0.weight", "0.bias"):
        pytest.skip("no such layer")
    if name == "mixed" and still == "0.bias":
        pytest.skip("no such parameter")
    model, line, x = case(name, still)
    batch = batch_of((x, torch.zeros(5)))
    with undisturbed(model):
        fast = outputs_on_path(model, line, batch, order=order, per="example")
        monkeypatch.setattr("lerpscape.geometry.outputs.stack_of", lambda *_: None)
        slow = outputs_on_path(model, line, batch, order=order, per="example")
        assert fast.stack is not None
        assert slow.stack is None
        for alpha in (0.0, 0.37, 1.0, 0.37):
            (ours,), (expected,) = fast.at(alpha, [batch]), slow.at(alpha, [batch])
            assert ours.shape == expected.shape
            assert_allclose(ours, expected, rtol=1e-10, atol=1e-10)


def test_many_batches_share_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model, line, x = case("relu")
    data = [(x[[row]], torch.zeros(1)) for row in range(5)]
    expected = ls.gauss_length(model, line, [(x, torch.zeros(5))], alphas=33, precision=None)
    assert expected.how["derivatives"] == "Taylor coefficients"
    for size in (0, 200, 1 << 28):
        monkeypatch.setattr("lerpscape.geometry.taylor_rules.SHARED_BYTES", size)
        found = ls.gauss_length(model, line, data, alphas=33, precision=None)
        assert_allclose(found.per_example, expected.per_example, rtol=1e-9)


def test_anything_else_is_left_to_forward_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    class Halved(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) / 2

    layer = nn.Linear(6, 6)
    tied = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    tied[2].weight = tied[0].weight
    hooked = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
    hooked[1].register_forward_hook(lambda *a: 3 * a[2])
    kept = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
    kept.forward = lambda x: 2 * x  # type: ignore[method-assign]
    patched = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
    patched[1].forward = lambda x: x.relu().clamp(max=0.5)  # type: ignore[method-assign]
    called = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
    called[0]._call_impl = lambda x: 2 * x
    models = {
        "forward of an instance": patched,
        "forward of the whole": kept,
        "step of a call": called,
        "own forward": Own(nn.Linear(6, 6), nn.ReLU()),
        "own layer": nn.Sequential(Halved(6, 6), nn.ReLU()),
        "unknown layer": nn.Sequential(nn.Linear(6, 6), nn.Softsign()),
        "layer used twice": nn.Sequential(layer, nn.ReLU(), layer),
        "layer used twice, nested": nn.Sequential(nn.Sequential(layer, nn.ReLU()), nn.Sequential(layer)),
        "tied": tied,
        "hooked": hooked,
        "weight norm": nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 6)), nn.ReLU()),
        "no linear layer": nn.Sequential(nn.Flatten(), nn.PReLU()),
    }
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    for name, model in models.items():
        end = {key: value + 0.5 for key, value in model.state_dict().items()}
        line = ls.Line(model.state_dict(), end)
        assert stack_of(ModelOnPath(model, line, None, None), batch_of((x, torch.zeros(5)))) is None, name
    with monkeypatch.context() as patching:
        patching.setattr(nn.functional, "relu", lambda x, inplace=False: x.clamp(0, 0.5))
        start, end = (nn.Sequential(nn.Linear(6, 6), nn.ReLU()) for _ in range(2))
        assert stack_of(ModelOnPath(start, ls.Line(start, end), None, None), batch_of((x, torch.zeros(5)))) is None
    end = {key: value + 0.5 for key, value in models["unknown layer"].state_dict().items()}
    found = ls.gauss_length(models["unknown layer"], ls.Line(models["unknown layer"], end), [(x, torch.zeros(5))])
    assert found.how["derivatives"] == "forward mode"
    plain = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
    line = ls.Line(plain, nn.Sequential(nn.Linear(6, 6), nn.ReLU()))
    assert stack_of(ModelOnPath(plain, line, None, None), batch_of(({"input": x}, torch.zeros(5)))) is None
    assert stack_of(ModelOnPath(plain, line, None, None), batch_of((x, torch.zeros(5)))) is not None


def test_a_patched_forward_turns_as_it_does() -> None:
    """The same function as a module of its own is the oracle."""

    class Capped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.relu().clamp(max=0.5)

    model, line, x = case("relu")
    index = next(index for index, layer in enumerate(model) if isinstance(layer, nn.ReLU))
    written = copy.deepcopy(model)
    written[index] = Capped()
    model[index].forward = lambda x: x.relu().clamp(max=0.5)
    data = [(x, torch.zeros(len(x)))]
    found, expected = (ls.gauss_length(each, line, data, alphas=33, precision=None) for each in (model, written))
    assert_allclose(found.per_example, expected.per_example, rtol=1e-12)  # the same operations in the same order
    assert found.how["derivatives"] == "forward mode"


def test_layers_that_do_not_give_what_the_module_gives_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found out on any batch of the caller: here by a rule that is wrong for large numbers only."""
    model, line, x = case("relu")
    data = [(x, torch.zeros(len(x))), (100 * x, torch.zeros(len(x)))]
    expected = ls.gauss_length(model, line, data, alphas=33, precision=None)
    rule = _RULES[RELU]
    wrong = {RELU: lambda series, **_: [None if each is None else each.clamp(max=9) for each in rule(series)]}
    monkeypatch.setattr(taylor_rules, "_RULES", _RULES | wrong)
    found = ls.gauss_length(model, line, data, alphas=33, precision=None)
    assert found.how["derivatives"] == "forward mode" != expected.how["derivatives"]
    assert_allclose(found.per_example, expected.per_example, rtol=1e-6)
