"""The laboratory's networks: numbers of parameters, initialisations and error messages."""

from __future__ import annotations

import inspect
import json
import math
import re
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import lerpscape as ls
from lerpscape.base.errors import ConfigError
from lerpscape.lab.models import MODELS, build
from lerpscape.lab.models.activations import ACTIVATIONS, GroupSort
from lerpscape.lab.models.initialisation import INITIALISATIONS, NTKLinear, weighted_layers

CIFAR, MNIST = (3, 32, 32), (1, 28, 28)
SMALL: dict[str, dict[str, Any]] = {
    "fully_connected": {"inputs": (1, 4, 4), "outputs": 3, "widths": [6, 6]},
    "autoencoder": {"inputs": (1, 4, 4), "outputs": 16, "widths": [6], "code": 2},
    "linear_autoencoder": {"inputs": (1, 4, 4), "outputs": 16, "code": 2},
    "lenet": {"inputs": (1, 8, 8), "outputs": 3},
    "alexnet": {"inputs": CIFAR, "outputs": 3, "width": 8},
    "vgg": {"inputs": CIFAR, "outputs": 3, "depth": 11, "width": 2},
    "resnet": {"inputs": (3, 8, 8), "outputs": 3, "depth": 8, "width": 4},
    "lstm": {"inputs": (), "outputs": 7, "width": 6},
    "transformer": {"inputs": (), "outputs": 7, "width": 6, "hidden": 5},
}


def small(name: str, seed: int = 0, **options: Any) -> nn.Module:
    return build(name, seed=seed, **(SMALL[name] | options))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def count(name: str, inputs: tuple[int, ...], outputs: int, **options: Any) -> int:
    with torch.device("meta"):
        model = build(name, inputs=inputs, outputs=outputs, seed=0, **options)
    return sum(parameter.numel() for parameter in model.parameters())


# Parameter counts ----------------------------------------------------------------------------------------------------


def dense(*sizes: int) -> int:
    return sum((inside + 1) * outside for inside, outside in pairwise(sizes))


def convolutions(*layers: tuple[int, int, int]) -> int:
    return sum((inside * side * side + 1) * outside for inside, outside, side in layers)


def test_fully_connected_counts() -> None:
    assert count("fully_connected", MNIST, 10, widths=[1024, 1024]) == 1_863_690 == dense(784, 1024, 1024, 10)
    assert count("fully_connected", MNIST, 10, widths=[1024, 1024], batch_norm=True) == 1_863_690 + 4 * 1024
    assert count("fully_connected", MNIST, 10, widths=[1024, 1024], biases="last") == 1_863_690 - 2 * 1024
    assert count("fully_connected", MNIST, 10, widths=[1024, 1024], biases="none") == 1_863_690 - 2 * 1024 - 10
    assert count("fully_connected", MNIST, 10, widths=[64], parametrization="ntk") == dense(784, 64, 10)
    assert count("fully_connected", MNIST, 10, widths=[]) == dense(784, 10)


@pytest.mark.parametrize("code", [100, 50, 25, 10, 5, 2, 1])
def test_autoencoder_counts(code: int) -> None:
    """784·512·2 + 2·512·h weights and 512 + h + 512 + 784 biases."""
    assert count("autoencoder", MNIST, 784, code=code) == 802_816 + 1024 * code + 1808 + code
    assert count("linear_autoencoder", MNIST, 784, code=code) == 2 * 784 * code


def test_convolutional_counts() -> None:
    lenet = convolutions((1, 6, 5), (6, 16, 5)) + dense(16 * 5 * 5, 120, 84, 10)
    assert count("lenet", MNIST, 10) == 61_706 == lenet
    assert count("lenet", CIFAR, 10) == 62_006 == lenet + 2 * 6 * 25
    assert count("lenet", CIFAR, 10, batch_norm=True) == 62_006 + 2 * (6 + 16 + 120 + 84)
    alexnet = convolutions((3, 64, 11), (64, 192, 5), (192, 384, 3), (384, 256, 3), (256, 256, 3)) + dense(256, 10)
    assert count("alexnet", CIFAR, 10) == 2_472_266 == alexnet
    assert count("alexnet", CIFAR, 10, batch_norm=True) == alexnet + 2 * (64 + 192 + 384 + 256 + 256)


@pytest.mark.parametrize(
    ("depth", "plain"), [(11, 9_225_610), (13, 9_410_122), (16, 14_719_818), (19, 20_029_514)], ids=str
)
def test_vgg_counts(depth: int, plain: int) -> None:
    """Configurations A, B, D and E of Simonyan & Zisserman 2015, table 1."""
    channels = {
        11: [64, 128, 256, 256, 512, 512, 512, 512],
        13: [64, 64, 128, 128, 256, 256, 512, 512, 512, 512],
        16: [64, 64, 128, 128, 256, 256, 256] + 6 * [512],
        19: [64, 64, 128, 128, 256, 256, 256, 256] + 8 * [512],
    }[depth]
    assert len(channels) + 3 == depth  # of the paper's three linear layers one is left
    formula = convolutions(*((a, b, 3) for a, b in pairwise([3, *channels]))) + dense(512, 10)
    assert count("vgg", CIFAR, 10, depth=depth) == plain == formula
    assert count("vgg", CIFAR, 10, depth=depth, batch_norm=True) == plain + 2 * sum(channels)
    assert count("vgg", CIFAR, 100, depth=depth) == plain + 90 * 513


RESNETS = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}


@pytest.mark.parametrize("depth", RESNETS)
def test_residual_counts(depth: int) -> None:
    n = depth // 6
    pairs = [(16, 16)] * (2 * n) + [(16, 32)] + [(32, 32)] * (2 * n - 1) + [(32, 64)] + [(64, 64)] * (2 * n - 1)
    weights = 9 * (3 * 16 + sum(a * b for a, b in pairs)) + dense(64, 10)
    channels = 16 + sum(b for _, b in pairs)
    assert count("resnet", CIFAR, 10, depth=depth) == RESNETS[depth] == weights + 2 * channels
    assert count("resnet", CIFAR, 10, depth=depth, norm="identity") == RESNETS[depth]
    assert count("resnet", CIFAR, 10, depth=depth, norm="residual_scale") == weights + channels + 3 * n
    # A shift before and behind both convolutions and a scale in each block, a shift in the stem and one in the head.
    assert count("resnet", CIFAR, 10, depth=depth, norm="fixup") == weights + 5 * 3 * n + 2


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_language_model_counts(depth: int) -> None:
    vocabulary, width = 1000, 200
    ends = vocabulary * width + dense(width, vocabulary)
    gates = 4 * (2 * width * width + 2 * width)
    assert count("lstm", (), vocabulary, depth=depth) == ends + depth * gates
    layer = 4 * width * width + 4 * width + dense(width, 200, width) + 2 * 2 * width
    assert count("transformer", (), vocabulary, depth=depth) == ends + depth * layer


PAGE = (Path(ls.__file__).parent.parent / "docs" / "models.md").read_text()
NETWORKS = dict(
    re.findall(r"^\* `(\w+)`: (.*?)(?=^\* |\n\n)", PAGE.split("The common options")[0], re.MULTILINE | re.DOTALL)
)
PARAMETERS = [
    [cell.strip(" `") for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line[:3] == "| `"
]


@pytest.mark.parametrize(("name", "options", "inputs", "outputs", "parameters"), PARAMETERS, ids=str)
def test_the_table_of_the_docs(name: str, options: str, inputs: str, outputs: str, parameters: str) -> None:
    parsed = tomllib.loads(f"options = {{{options}}}")["options"]
    shape = tuple(int(side) for side in inputs.split(",") if side)
    assert f"{count(name, shape, int(outputs), **parsed):,}" == parameters


def test_the_docs_name_every_network_and_option_with_its_default() -> None:
    assert {row[0] for row in PARAMETERS} == set(NETWORKS) == set(MODELS)
    common = PAGE[PAGE.index("The common options:") : PAGE.index("## Parameters")]
    for name, described in NETWORKS.items():
        for option, parameter in inspect.signature(MODELS[name]).parameters.items():
            if parameter.kind is parameter.KEYWORD_ONLY:
                stated = f"`{option} = {json.dumps(parameter.default)}`"
                where = described if f"`{option} = " in described else common
                assert stated in " ".join(where.split()), (name, stated)


# Where they start ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_a_seed_gives_the_same_bits_and_leaves_the_generator_alone(name: str) -> None:
    before = torch.get_rng_state()
    one, two, other = small(name), small(name), small(name, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", ["fully_connected", "autoencoder", "lenet", "alexnet", "vgg"])
@pytest.mark.parametrize("activation", ["identity", "groupsort", "tanh"])
def test_activations_are_where_they_should_be(name: str, activation: str) -> None:
    model = small(name, activation=activation)
    found = [layer for layer in model.modules() if type(layer) is ACTIVATIONS[activation]]
    hidden = len(weighted_layers(model)) - 1
    assert len(found) == (0 if activation == "identity" and name in ("fully_connected", "autoencoder") else hidden)
    assert isinstance(list(model.children())[-1], nn.Linear)


def test_groupsort_sorts_within_groups() -> None:
    x = torch.tensor([[3.0, 1.0, 2.0, -1.0, -2.0, 0.0]])
    assert GroupSort(2)(x).tolist() == [[1, 3, -1, 2, -2, 0]]
    assert GroupSort(3)(x).tolist() == [[1, 2, 3, -2, -1, 0]]
    image = drawn(2, 4, 3, 3)
    assert torch.equal(GroupSort(2)(image)[:, 1], torch.maximum(image[:, 0], image[:, 1]))


@given(st.integers(0, 10_000), st.sampled_from([2, 3, 6]), st.floats(1e-3, 10))
def test_groupsort_is_1_lipschitz_and_keeps_every_norm(seed: int, size: int, far: float) -> None:
    x, step = drawn(5, 12, seed=seed).double(), far * drawn(5, 12, seed=seed + 1).double()
    sort = GroupSort(size)
    for p in (1, 2, math.inf):
        # Equal sums in another order: rounding of twelve terms.
        torch.testing.assert_close(sort(x).norm(p, dim=1), x.norm(p, dim=1), rtol=1e-14, atol=0)
        assert ((sort(x + step) - sort(x)).norm(p, dim=1) <= step.norm(p, dim=1) * (1 + 1e-12)).all()


def of_kind(init: str, **options: Any) -> tuple[Tensor, Tensor]:
    model = build("fully_connected", inputs=(400,), outputs=300, seed=0, widths=[], init=init, **options)
    (layer,) = weighted_layers(model)
    return layer.weight.detach(), layer.bias.detach()


def test_initialisations_have_their_distributions() -> None:
    """120,000 weights: a standard deviation is known to 0.2 % (1 σ), a maximum of uniform draws to 0.01 %."""
    weight, bias = of_kind("default")
    assert weight.abs().max() == pytest.approx(1 / 20, rel=1e-3) and weight.abs().max() <= 1 / 20
    assert weight.std() == pytest.approx(1 / 20 / math.sqrt(3), rel=0.01) and bias.abs().max() > 0.9 / 20
    weight, bias = of_kind("xavier")
    assert weight.abs().max() == pytest.approx(math.sqrt(6 / 700), rel=1e-3) and not bias.any()
    weight, bias = of_kind("kaiming")
    assert weight.std() == pytest.approx(math.sqrt(2 / 400), rel=0.01) and not bias.any()
    assert weight.abs().max() > 3 * math.sqrt(2 / 400)  # normal, not uniform
    weight, bias = of_kind("sparse")
    assert ((weight != 0).sum(1) == 15).all() and not bias.any()
    assert weight[weight != 0].std() == pytest.approx(1, rel=0.05)
    assert (weight != 0).sum(0).max() < 30  # the 15 are not the same for every unit: 11 on average


def test_sparse_layers_narrower_than_15_are_full() -> None:
    model = small("lenet", init="sparse")
    kept = [(layer.weight.flatten(1) != 0).sum(1) for layer in weighted_layers(model)]
    assert all((each == 15).all() for each in kept)  # 25 incoming connections in the first convolution
    narrow = build("fully_connected", inputs=(4,), outputs=3, seed=0, widths=[], init="sparse")
    assert weighted_layers(narrow)[0].weight.all()


@pytest.mark.parametrize("name", ["fully_connected", "lenet", "resnet"])
@pytest.mark.parametrize("init", INITIALISATIONS)
def test_init_scale_multiplies_weights_and_biases(name: str, init: str) -> None:
    for one, three in zip(
        weighted_layers(small(name, init=init)), weighted_layers(small(name, init=init, init_scale=0.5)), strict=True
    ):
        assert torch.equal(one.weight * 0.5, three.weight)
        assert one.bias is None or torch.equal(one.bias * 0.5, three.bias)


@pytest.mark.parametrize("name", ["fully_connected", "autoencoder", "linear_autoencoder", "lenet", "alexnet", "vgg"])
@pytest.mark.parametrize("parametrization", ["standard", "ntk"])
def test_biases_all_last_none(name: str, parametrization: str) -> None:
    options = {"parametrization": parametrization} if name == "fully_connected" else {}
    for which, expected in (("all", lambda n: n), ("last", lambda n: 1), ("none", lambda n: 0)):
        layers = weighted_layers(small(name, biases=which, **options))
        having = [layer.bias is not None for layer in layers]
        assert sum(having) == expected(len(layers))
        assert which != "last" or having[-1]


def test_networks_without_biases_are_homogeneous() -> None:
    """f(cθ) = c^depth f(θ) for ReLU networks without biases, and for NTK ones too."""
    x = drawn(5, 1, 4, 4).double()
    for options in ({}, {"parametrization": "ntk"}):
        model = small("fully_connected", biases="none", **options).double()
        before = model(x)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(2)
        torch.testing.assert_close(model(x), 8 * before, rtol=1e-12, atol=0)


def test_ntk_parametrisation_by_its_formula() -> None:
    model = build("fully_connected", inputs=(400,), outputs=300, seed=0, widths=[], parametrization="ntk")
    (layer,) = weighted_layers(model.requires_grad_(False))
    assert isinstance(layer, NTKLinear)
    x = drawn(7, 400, seed=1)
    assert layer.weight.std() == pytest.approx(1, rel=0.01) and layer.bias is not None
    torch.testing.assert_close(layer(x), x @ layer.weight.T / 20 + 0.1 * layer.bias)
    # Over initialisations an output of x has variance ‖x‖²/n + 0.01: 1.01 here, known to 8 % (1 σ) from 300 units.
    unit = x / x.norm(dim=1, keepdim=True) * 20
    assert layer(unit).var() == pytest.approx(1.01, rel=0.2)


def test_residual_networks_that_begin_as_the_identity() -> None:
    """With identity init and with a residual scale of 0 the blocks add nothing; Fixup's first output is 0."""
    x = drawn(4, 3, 8, 8)
    for norm in ("identity", "residual_scale", "fixup"):
        model = small("resnet", norm=norm).eval()
        stem = model.stem(x)
        block = model.stage1[0]
        assert torch.equal(block(stem), stem) and block.branch(stem).abs().max() == 0
    assert torch.equal(small("resnet", norm="fixup")(x), torch.zeros(4, 3))
    ordinary = small("resnet", norm="batch_norm").eval()
    assert ordinary.stage1[0].branch(ordinary.stem(x)).abs().max() > 0


def test_fixup_scales_the_first_convolution_of_each_branch() -> None:
    plain = {id(block): block for block in small("resnet", norm="batch_norm").modules()}
    convolutions = [layer for layer in plain.values() if isinstance(layer, nn.Conv2d)]
    fixed = [layer for layer in small("resnet", norm="fixup").modules() if isinstance(layer, nn.Conv2d)]
    assert torch.equal(fixed[0].weight, convolutions[0].weight)
    for index in range(1, len(fixed), 2):  # three blocks of two convolutions
        torch.testing.assert_close(fixed[index].weight, convolutions[index].weight / math.sqrt(3))
        assert not fixed[index + 1].weight.any()


def test_the_shortcut_takes_every_second_pixel_and_adds_channels_of_zeros() -> None:
    model = small("resnet")
    x = drawn(2, 4, 7, 7)
    found = model.stage2[0].shortcut(x)
    assert torch.equal(found[:, :4], x[:, :, ::2, ::2]) and found.shape == (2, 8, 4, 4) and not found[:, 4:].any()


@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_language_models_see_the_past_alone_and_each_example_alone(name: str) -> None:
    model = small(name, depth=3).double()
    tokens = torch.randint(0, 7, (5, 9), generator=torch.Generator().manual_seed(0))
    logits = model(tokens)
    assert logits.shape == (5, 9, 7)
    changed = tokens.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % 7
    torch.testing.assert_close(model(changed)[:, :6], logits[:, :6], rtol=1e-12, atol=1e-14)
    assert not torch.allclose(model(changed)[:, 6:], logits[:, 6:])
    torch.testing.assert_close(model(tokens[2:3]), logits[2:3], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(model(tokens[:, :4]), logits[:, :4], rtol=1e-12, atol=1e-14)


def test_the_transformer_is_torchs_with_sines_by_their_formula() -> None:
    model = small("transformer", width=8, heads=4, depth=2).double()
    layers = []
    for ours in model.layers:
        layer = nn.TransformerEncoderLayer(8, 4, 5, dropout=0.0, batch_first=True).double()
        pairs = {
            "self_attn.in_proj_": ours.attention.queries_keys_values,
            "self_attn.out_proj.": ours.attention.mix,
            "linear1.": ours.widen,
            "linear2.": ours.narrow,
            "norm1.": ours.first_norm,
            "norm2.": ours.second_norm,
        }
        layer.load_state_dict(
            {name + part: getattr(own, part) for name, own in pairs.items() for part in ("weight", "bias")}
        )
        layers.append(layer)
    tokens = torch.randint(0, 7, (3, 5), generator=torch.Generator().manual_seed(0))
    x = model.embedding(tokens) * math.sqrt(8)
    for position in range(5):
        for index in range(8):
            wave = math.cos if index % 2 else math.sin
            x[:, position, index] += wave(position / 10_000 ** (index // 2 * 2 / 8))
    mask = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
    for layer in layers:
        x = layer(x, src_mask=mask)
    # The frequencies are float32 numbers.
    torch.testing.assert_close(model(tokens), model.read(x), rtol=1e-6, atol=1e-7)


# Options and errors --------------------------------------------------------------------------------------------------


def test_an_unknown_model_suggests_the_nearest() -> None:
    with pytest.raises(ls.ConfigError, match=r"one of fully_connected, .*\n.*'resnte'\.\n.*mean 'resnet'\?"):
        build("resnte", inputs=CIFAR, outputs=10, seed=0)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fully_connected", {"width": [8]}, r"option of 'fully_connected'.*\n.*'width'\.\n.*'widths'\?"),
        ("fully_connected", {"widths": 8}, r"list of whole numbers ≥ 1 for widths.*\n.*8"),
        ("fully_connected", {"widths": [8, 0]}, r"list of whole numbers ≥ 1 for widths.*\n.*\[8, 0\]"),
        ("fully_connected", {"batch_norm": 1}, r"true or false for batch_norm"),
        ("fully_connected", {"init_scale": "2"}, r"a number for init_scale"),
        ("fully_connected", {"init_scale": 0.0}, r"init_scale > 0"),
        ("fully_connected", {"init_scale": float("nan")}, r"init_scale > 0"),
        ("fully_connected", {"activation": 3}, r"a word for activation"),
        ("fully_connected", {"activation": "rellu"}, r"activation: one of .*\n.*\n.*'relu'\?"),
        ("fully_connected", {"activation": "groupsort", "widths": [5]}, r"multiple of 2 features"),
        ("fully_connected", {"init": "he"}, r"init: one of default, xavier, kaiming, sparse"),
        ("fully_connected", {"biases": "first"}, r"biases: one of all, last, none"),
        ("fully_connected", {"parametrization": "mup"}, r"one of standard, ntk"),
        ("fully_connected", {"parametrization": "ntk", "init": "xavier"}, r'init="default" for parametrization="ntk"'),
        ("autoencoder", {"outputs": 10}, r"as many outputs .* has values \(16\).*\n.*10"),
        ("lenet", {"inputs": (64,)}, r"images \(channels, height, width\) for 'lenet'"),
        ("alexnet", {"inputs": MNIST}, r"29 × 29 or more"),
        ("vgg", {"inputs": MNIST}, r"32 × 32 or more"),
        ("vgg", {"depth": 18}, r"depth of 'vgg': one of 11, 13, 16, 19"),
        ("vgg", {"depth": True}, r"a whole number ≥ 1 for depth"),
        ("resnet", {"depth": 18}, r"a depth of 6 n \+ 2"),
        ("resnet", {"depth": 2}, r"a depth of 6 n \+ 2"),
        ("resnet", {"norm": "fixupp"}, r"norm of 'resnet'.*\n.*\n.*'fixup'\?"),
        ("lstm", {"inputs": (8, 8)}, r"sequences of tokens for 'lstm': inputs=\(\)"),
        ("transformer", {"inputs": MNIST}, r"sequences of tokens for 'transformer'"),
        ("transformer", {"heads": 4}, r"a multiple of heads.*\n.*width=6, heads=4"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ls.ConfigError, match=message):
        small(name, **options)


MINE = """
import torch
ready = torch.nn.Linear(2, 2)
number = 3
def plain(width=4):
    return torch.nn.Linear(width, 2)
def sized(inputs, outputs, *, hidden: int = 3):
    return torch.nn.Sequential(torch.nn.Linear(inputs[0], hidden), torch.nn.Linear(hidden, outputs))
def free(**options):
    return torch.nn.Linear(options["first"], options["second"])
def strict(width, *more):
    return torch.nn.Linear(width, 1)
def nothing():
    return None
"""


def test_factories_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "minenets.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def mine(name: str, **options: Any) -> Any:
        return build(f"minenets:{name}", inputs=(5,), outputs=2, seed=7, **options)

    try:
        assert mine("plain", width=6).weight.shape == (2, 6)
        assert torch.equal(mine("plain").weight, mine("plain").weight)
        assert [layer.weight.shape for layer in mine("sized", hidden=4)] == [(4, 5), (2, 4)]
        assert mine("free", first=3, second=1).weight.shape == (1, 3)
        for name, options, message in (
            ("plain", {"wdth": 6}, r"option of 'minenets:plain'.*\n.*'wdth'\.\n.*'width'\?"),
            ("sized", {"hidden": "4"}, r"a whole number for hidden"),
            ("nothing", {}, r"a torch module from 'minenets:nothing'.*\n.*NoneType"),
            ("nothing", {"depth": 3}, r"option of 'minenets:nothing': there is none"),
            ("number", {}, r"minenets:number to be a function.*\n.*int"),
            ("missing", {}, r"a name in minenets: .*plain.*\n.*'missing'"),
            ("ready", {}, r"minenets:ready to be a function.*\n.*Linear"),
            ("strict", {}, r"a value for width of 'minenets:strict'.*\n.*nothing"),
        ):
            with pytest.raises(ls.ConfigError, match=message):
                mine(name, **options)
    finally:
        sys.modules.pop("minenets", None)
    with pytest.raises(ls.ConfigError, match="a module no_such_package"):
        build("no_such_package:factory", inputs=(5,), outputs=2, seed=0)


def test_asymmetric_layers_have_the_same_constants_in_every_network() -> None:
    """Lim et al. (2024): the constants are no parameters, and no unit can be exchanged for another."""
    options = {"inputs": (20,), "outputs": 3, "widths": (12,), "fixed_entries": 6, "fixed_scale": 2.0}
    one, other = (build("fully_connected", seed=seed, **options) for seed in (0, 1))
    x = torch.randn(30, 20, generator=torch.Generator().manual_seed(3))
    for before, after in zip(one, other, strict=True):
        if isinstance(before, nn.Linear):
            assert torch.equal(before.constant, after.constant) and torch.equal(before.values, after.values)
            assert before.constant.sum(1).tolist() == [6] * len(before.weight)
            assert float(before.weight.detach()[before.constant].abs().max()) == 0 and before.values.std() > 1.5
            assert not torch.equal(before.weight, after.weight)
    assert set(one.state_dict()) == {"1.weight", "1.bias", "3.weight", "3.bias"}
    weights = [torch.where(layer.constant, layer.values, layer.weight) for layer in (one[1], one[3])]
    by_hand = torch.relu(x @ weights[0].T + one[1].bias) @ weights[1].T + one[3].bias
    torch.testing.assert_close(one(x), by_hand)
    one(x).square().sum().backward()
    assert float(one[1].weight.grad[one[1].constant].abs().max()) == 0 != float(one[1].weight.grad.abs().max())
    swapped = build("fully_connected", seed=0, **options)
    with torch.no_grad():
        swapped[1].weight.copy_(swapped[1].weight.flip(0)), swapped[1].bias.copy_(swapped[1].bias.flip(0))
        swapped[3].weight.copy_(swapped[3].weight.flip(1))
    assert not torch.allclose(swapped(x), one(x))
    with pytest.raises(ConfigError, match="fixed_entries from 1 to 11, fewer than the inputs"):
        build("fully_connected", seed=0, **(options | {"fixed_entries": 12}))
