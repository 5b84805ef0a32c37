"""The table of layer kinds, and every number system that has rules for them; each case comes from the table itself."""

from __future__ import annotations

import ast
import inspect
from collections import Counter
from pathlib import Path

import pytest
import torch
from layer_forms import ACTIVATIONS, MADE_WITH, SHAPE, SOFTMAXES, forms, layer_of, written
from torch import fx, nn

import lerpscape
from lerpscape.networks import layer_kinds
from lerpscape.networks.layer_kinds import KINDS, Kind, kind_of, settings_of


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
    for file in sorted((Path(lerpscape.__file__).parent / folder).glob("*.py")):
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
