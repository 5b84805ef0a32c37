"""The table of layer kinds, and every number system that has rules for them; each case comes from the table itself."""

from __future__ import annotations

import ast
import inspect
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from layer_forms import ACTIVATIONS, MADE_WITH, NORMS, SHAPE, SOFTMAXES, forms, layer_of, written
from torch import Tensor, fx, nn

import lerpscape as ls
from lerpscape.certificates.layer_rules import RULES
from lerpscape.networks import layer_kinds
from lerpscape.networks.bias_depths import bias_depths
from lerpscape.networks.layer_kinds import KINDS, Kind, kind_of, settings_of
from lerpscape.networks.symmetries import symmetry

# On first use of forward mode torch 2.13 warns about its own torch.jit.script.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")


def test_each_form_has_one_kind_and_each_kind_one_name() -> None:
    counted = Counter(form for kind in KINDS for form in (*kind.modules, *kind.functions, *kind.methods))
    assert [form for form, times in counted.items() if times > 1] == []
    assert len({kind.name for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize(("kind", "form"), forms([*ACTIVATIONS, *SOFTMAXES], in_place=True))
def test_the_written_forms_of_a_kind_are_one_operation(kind: Kind, form: object) -> None:
    x = 3 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(written(kind, form)(x.clone()), layer_of(kind)(x))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.settings], ids=lambda kind: kind.name)
def test_settings_have_the_names_and_the_order_of_the_functions_arguments(kind: Kind) -> None:
    for function in kind.functions:
        try:
            names = list(inspect.signature(function).parameters)
        except ValueError:  # written in C++
            continue
        if names != ["args", "kwargs"]:
            known = [name for name in kind.settings if name != "padding_mode"]
            assert names[1 : 1 + len(known)] == known or function.__module__ in ("_operator", "builtins")


@pytest.mark.parametrize(("kind", "form"), forms(ACTIVATIONS))
def test_a_node_is_of_its_kind_with_its_settings(kind: Kind, form: object) -> None:
    model = nn.Sequential(written(kind, form))
    nodes = [node for node in fx.Tracer().trace(model).nodes if node.op.startswith("call")]
    modules = dict(model.named_modules())
    assert [kind_of(node, modules) for node in nodes] == [kind]
    given = {name: value for name, value in settings_of(nodes[0], modules).items() if name != "inplace"}
    assert given == MADE_WITH.get(kind.name, {})


def test_a_subclass_is_of_no_kind() -> None:
    class Twice(nn.ReLU):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    assert layer_kinds.kind_of_layer(Twice()) is None


def network(kind: Kind, form: object, seed: int) -> nn.Module:
    """Two linear layers with a kind in one of its forms between them, every parameter drawn at random."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(6, 4), written(kind, form), nn.Linear(4, 3)).double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()
    return model.eval()


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(12, 6, generator=generator, dtype=torch.float64), torch.arange(12) % 3


@pytest.mark.parametrize(("kind", "form"), forms([*ACTIVATIONS, *SOFTMAXES, *NORMS, layer_kinds.PRELU]))
def test_values_and_derivatives_are_those_of_a_plain_loop(kind: Kind, form: object) -> None:
    start, end = network(kind, form, 0), network(kind, form, 1)
    line, (x, y) = ls.Line(start, end), batch()
    alphas = [0.0, 0.1, 0.2, 0.3, 0.45, 0.5, 0.8, 0.9, 1.0]
    found = ls.profile(start, line, [(x[:7], y[:7]), (x[7:], y[7:])], alphas=alphas)
    assert (found.derivative is not None and "operations" in found.how["plan"]) or "shared" in found.how["plan"]
    names = [name for name, _ in start.named_parameters()]
    for alpha, loss, slope in zip(alphas, found.loss, found.derivative, strict=True):
        weights = {name: tensor.clone().requires_grad_() for name, tensor in line.at(alpha).items()}
        mean = nn.functional.cross_entropy(torch.func.functional_call(start, weights, (x,)), y)
        gradients = torch.autograd.grad(mean, [weights[name] for name in names])
        expected = sum((part * line.velocity(alpha)[name]).sum() for part, name in zip(gradients, names, strict=True))
        assert loss == pytest.approx(mean.item(), rel=1e-12)  # a sum of twelve losses, rounded
        assert slope == pytest.approx(float(expected), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("kind", "form"), forms([*ACTIVATIONS, *SOFTMAXES], in_place=True))
def test_hidden_units_are_followed_through(kind: Kind, form: object) -> None:
    model, (x, _) = network(kind, form, 0), batch()
    assert symmetry(model, x).sizes == (4,)
    turned = ls.paths.permuted(model, model, seed=0, inputs=x).tensors
    assert not torch.equal(turned["0.bias"], model.state_dict()["0.bias"])
    torch.testing.assert_close(torch.func.functional_call(model, turned, (x.clone(),)), model(x.clone()))


@pytest.mark.parametrize(
    ("layer", "followed"),
    [(nn.LayerNorm(4), True), (nn.GroupNorm(1, 4), True), (nn.GroupNorm(4, 4), True), (nn.GroupNorm(2, 4), False)],
    ids=repr,
)
def test_hidden_units_under_a_norm(layer: nn.Module, followed: bool) -> None:
    model, (x, _) = nn.Sequential(nn.Linear(6, 4), layer, nn.Linear(4, 3)).double(), batch()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.normal_(generator=torch.Generator().manual_seed(number))
    if not followed:
        with pytest.raises(TypeError, match="'1', a GroupNorm in 2 groups of several channels"):
            symmetry(model, x)
        return
    turned = ls.paths.permuted(model, model, seed=0, inputs=x).tensors
    assert not torch.equal(turned["1.weight"], model.state_dict()["1.weight"])
    torch.testing.assert_close(torch.func.functional_call(model, turned, (x,)), model(x))


@pytest.mark.parametrize(("kind", "form"), forms([*ACTIVATIONS, *SOFTMAXES], in_place=True))
def test_a_bias_lies_as_deep_behind_any_activation(kind: Kind, form: object) -> None:
    assert bias_depths(network(kind, form, 0)) == {"0.bias": 1, "2.bias": 2}


@pytest.mark.parametrize("kind", NORMS, ids=lambda kind: kind.name)
def test_no_bias_has_a_depth_behind_a_norm(kind: Kind) -> None:
    for model in (network(kind, kind.modules[0], 0), network_without_weights(kind)):
        with pytest.raises(TypeError, match="which takes away the scale before it"):
            bias_depths(model)


def network_without_weights(kind: Kind) -> nn.Module:
    """With a norm that is called as a function and has no weights of its own."""
    size = 2 if kind is layer_kinds.GROUP_NORM else (4,)

    class Plain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return kind.functions[0](x, size)

    return nn.Sequential(nn.Linear(6, 4), Plain(), nn.Linear(4, 3))


@pytest.mark.parametrize(("kind", "form"), forms([*ACTIVATIONS, *SOFTMAXES, *NORMS]))
def test_a_certificate_holds_or_the_kind_is_refused_by_name(kind: Kind, form: object) -> None:
    start, end = network(kind, form, 0), network(kind, form, 1)
    line, data = ls.Line(start, end), [batch()]
    if kind not in RULES:
        with pytest.raises(TypeError, match=r"(?s)made of the kinds .*ReLU.*got: (layer|operation) '"):
            ls.certify(start, line, data)
        return
    found = ls.certify(start, line, data, budget=12)
    alphas = np.unique(np.concatenate([np.linspace(0, 1, 129), found.edges]))
    profile = ls.profile(start, line, data, alphas=alphas)
    for (low, high), values in (
        (found.loss_bounds(alphas), profile.loss),
        (found.slope_bounds(alphas), profile.derivative),
    ):
        room = 1e-11 * (1 + np.abs(values).max())  # of the profile's own rounding
        assert bool(np.all(low - room <= values)) and bool(np.all(values <= high + room))
        assert np.isfinite(low).all() and np.isfinite(high).all()


def layer_classes(node: ast.AST) -> set[str]:
    """The classes of torch.nn among the elements of a literal, the keys of a dict or the sides of `A | B`."""
    parts: list[ast.expr | None] = []
    if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
        parts = list(node.elts)
    elif isinstance(node, ast.Dict):
        parts = list(node.keys)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        parts = [node.left, node.right]
    names = {part.attr for part in parts if isinstance(part, ast.Attribute) and ast.unparse(part.value) == "nn"}
    return {name for name in names if issubclass(getattr(nn, name, object), nn.Module)}


@pytest.mark.parametrize("folder", ["networks", "paths", "engine", "profiles", "certificates", "geometry", "studies"])
def test_no_second_list_of_layers(folder: str) -> None:
    """`layer_kinds` is the one table: elsewhere kinds are named, not classes of torch.nn."""
    for file in sorted((Path(ls.__file__).parent / folder).glob("*.py")):
        if file.stem == "layer_kinds":
            continue
        lists = [found for node in ast.walk(ast.parse(file.read_text())) if len(found := layer_classes(node)) > 1]
        assert lists == [], file


@pytest.mark.parametrize(
    "source",
    ["(nn.ReLU, nn.Tanh)", "isinstance(x, (nn.Linear, nn.Conv2d))", "{nn.ReLU: 1, nn.GELU: 2}", "nn.ReLU | nn.ELU"],
)
def test_a_second_list_is_seen(source: str) -> None:
    assert any(len(layer_classes(node)) > 1 for node in ast.walk(ast.parse(source)))
