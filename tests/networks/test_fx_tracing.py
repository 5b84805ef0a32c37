"""What a forward does besides its operations: seen, or refused; a certificate never is of another function."""

import contextlib
import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lerpscape as ls
from lerpscape.networks.bias_depths import bias_depths
from lerpscape.networks.fx_tracing import blank_trace, traced

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")


class Forward(nn.Module):
    """Two layers, two buffers, and a function that uses them."""

    def __init__(self, run: Callable[["Forward", Tensor], Tensor]) -> None:
        super().__init__()
        self.one = nn.Linear(3, 3)
        self.two = nn.Linear(3, 3)
        self.relu = nn.ReLU(inplace=True)
        self.register_buffer("factor", torch.tensor([0.5, 1.0, 2.0]))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def counting(net: Forward, x: Tensor) -> Tensor:
    net.calls += 1
    net.calls.add_(1)
    net.factor = net.factor * 0.5
    return net.two(torch.relu(net.one(x)))


def overwriting_once(net: Forward, x: Tensor) -> Tensor:
    hidden = net.one(x)
    hidden = net.relu(hidden)
    hidden += 1.0
    return net.two(F.relu(hidden, inplace=True))


def with_numbers(net: Forward, x: Tensor) -> Tensor:
    return net.two(net.one(x) * torch.tensor([2.0, 1.0, -1.0]) * (net.factor + 1) * net.two.bias)


def reading_again(net: Forward, x: Tensor) -> Tensor:
    hidden = net.one(x)
    return net.two(net.relu(hidden) + hidden)


def reading_a_view(net: Forward, x: Tensor) -> Tensor:
    hidden = net.one(x)
    return net.two(F.relu(hidden.view(-1, 3), inplace=True) * hidden)


def adding_in_place(net: Forward, x: Tensor) -> Tensor:
    hidden = other = net.one(x)
    other += 1.0
    return net.two(hidden * other)


def scaling_its_buffer(net: Forward, x: Tensor) -> Tensor:
    net.factor.mul_(3.0)
    return net.two(net.one(x) * net.factor)


def another_buffer(net: Forward, x: Tensor) -> Tensor:
    net.factor = net.factor * 0.9
    return net.two(net.one(x) * net.factor)


def counted(net: Forward, x: Tensor) -> Tensor:
    return net.two(net.one(x) * net.calls)


def ends(run, seed=0):
    generator = torch.Generator().manual_seed(seed)
    model = Forward(run)
    end = Forward(run)
    with torch.no_grad():
        for parameter in (*model.parameters(), *end.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    x = torch.randn(8, 3, generator=generator)
    return model, ls.Line(copy.deepcopy(model).state_dict(), end.state_dict()), [(x, torch.arange(8) % 3)]


@pytest.mark.parametrize("run", [counting, overwriting_once, with_numbers])
def test_a_certificate_is_of_what_the_module_does(run):
    model, line, data = ends(run)
    before = {name: (tensor, tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}
    names = set(vars(model))
    found = ls.certify(model, line, data, budget=8)
    assert set(vars(model)) == names
    for name, tensor in model.state_dict(keep_vars=True).items():
        assert tensor is before[name][0], name
        assert torch.equal(tensor, before[name][1]), name
    profile = ls.profile(model, line, data, alphas=found.edges, dtype=torch.float64)
    assert all((found.loss_low <= profile.loss) & (profile.loss <= found.loss_high))


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (reading_again, "'add' reads the result of 'one' after 'relu' has written over it"),
        (reading_a_view, "'mul' reads the result of 'one' after 'relu' has written over it"),
        (adding_in_place, "first for example 0"),  # torch.fx sees no += as such
        (scaling_its_buffer, "operation 'mul_'|'factor', which the forward changes"),
        (another_buffer, "'factor', which the forward changes"),
        (counted, "tensor 'calls' of type torch.int64"),
    ],
)
def test_what_the_operations_do_not_say_is_refused(run, words):
    model, line, data = ends(run)
    state = copy.deepcopy(model.state_dict())
    for certified in (ls.certify, ls.certificates.certify_angles):
        with pytest.raises(TypeError, match=words) as refusal:
            certified(model, line, data)
        assert "\ntry: " in str(refusal.value)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_hooks_that_change_outputs_are_noticed():
    model, line, data = ends(lambda net, x: net.two(net.one(x)))
    ls.certify(model, line, data, budget=8)
    model.one.register_forward_hook(lambda module, inputs, output: 1.01 * output)
    with pytest.raises(TypeError, match="has forward hooks"):
        ls.certify(model, line, data)


def test_counting_calls_disturbs_no_trace():
    model = Forward(counting)
    found = traced(model, "")
    assert not found.entangled
    assert [node.op for node in found.graph.nodes] == [
        *("placeholder", "call_module", "call_function", "call_module", "output")
    ]
    assert bias_depths(model) == {"one.bias": 1, "two.bias": 2}
    assert model.calls == 0


@pytest.mark.parametrize("run", [counting, with_numbers, another_buffer, reading_again])
def test_a_trace_runs_as_the_module_does(run):
    model, _, ((x, _),) = ends(run)
    with torch.no_grad():
        assert torch.equal(traced(model, "").module(x), copy.deepcopy(model)(x))


def asks_for_a_tensor(net: Forward, x: Tensor) -> Tensor:
    hidden = net.one(x)
    if isinstance(hidden, Tensor) and hidden.max() > 20:
        hidden = hidden.clamp(max=20.0)
    return net.two(hidden)


def asks_torch(net: Forward, x: Tensor) -> Tensor:
    hidden = net.one(x)
    return net.two(hidden.clamp(max=20.0) if torch.is_tensor(hidden) and hidden.max() > 20 else hidden)


def goes_on_without_an_answer(net: Forward, x: Tensor) -> Tensor:
    hidden = net.one(x)
    with contextlib.suppress(Exception):
        hidden = hidden.clamp(max=20.0) if hidden.max() > 20 else hidden
    return net.two(hidden)


@pytest.mark.parametrize("run", [asks_for_a_tensor, asks_torch, goes_on_without_an_answer])
def test_a_guard_on_values_does_not_vanish(run):
    with pytest.raises(TypeError, match="no branch or loop that depends on the values of tensors"):
        traced(Forward(run), "")
    assert "torch.fx cannot trace it" in blank_trace(Forward(run))


SIZED = {
    "arange": lambda x: torch.arange(x.shape[1]),
    "full": lambda x: torch.full((x.shape[0], 4), 1.0),
    "new_zeros": lambda x: x.new_zeros((x.size(0), 4)),
    "of a value": lambda x: torch.zeros((2, x.max().long())),
    "reshape": lambda x: x.reshape((x.shape[0], 4)),
    "eye": lambda x: torch.eye(x.shape[1]),
    "fill": lambda x: torch.full((2, 4), x.shape[0]),
}


@pytest.mark.parametrize("sized", SIZED.values(), ids=SIZED)
def test_sizes_from_the_inputs_are_operations(sized):
    # torch's C code took a proxy that calls itself a tensor for one, and the process ended
    graph, constants = blank_trace(Forward(lambda net, x: net.two(net.one(x)) + sized(x).sum()))
    assert not constants
    assert any("placeholder" in [each.op for each in node.all_input_nodes] for node in graph.nodes)


def test_a_proxy_is_no_parameter():
    model = Forward(lambda net, x: net.two(F.linear(x, net.one.weight) if isinstance(x, Tensor) else x))
    assert [node.op for node in traced(model, "").graph.nodes] == [
        *("placeholder", "get_attr", "call_function", "call_module", "output")
    ]
