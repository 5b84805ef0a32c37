"""All α together, block by block: the numbers of α by α, each file read once, and nothing left behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lerpscape as ls
from lerpscape.engine import layer_major
from lerpscape.engine.lockstep import blocks
from lerpscape.paths.formats import stored

WORDS, WIDTH = 11, 8


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.norm = nn.LayerNorm(WIDTH)
        self.inner = nn.Sequential(nn.Linear(WIDTH, 16), nn.GELU(), nn.Linear(16, WIDTH))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.norm(x)
        x = x + self.attention(h, h, h, attn_mask=mask, need_weights=False)[0]
        return x + self.inner(x)


class Language(nn.Module):
    """A Transformer; its embedding is `tied` to a head, `used` by a functional call, or neither."""

    def __init__(self, kind: str = "tied") -> None:
        super().__init__()
        self.kind = kind
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.position = nn.Parameter(torch.randn(6, WIDTH))
        self.layers = nn.ModuleList(Layer() for _ in range(3))
        if kind != "used":
            self.head = nn.Linear(WIDTH, WORDS, bias=False)
        if kind == "tied":
            self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.tensor(0.5), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) + self.position[: ids.shape[1]] * self.scale
        mask = torch.triu(torch.full((ids.shape[1],) * 2, -torch.inf, dtype=x.dtype), 1)
        for layer in self.layers:
            x = layer(x, mask=mask)
        return F.linear(x, self.embed.weight) if self.kind == "used" else self.head(x)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cell = nn.Embedding(WORDS, WIDTH), nn.LSTM(WIDTH, WIDTH, 2, batch_first=True)
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.head(self.cell(self.embed(ids))[0])
        return out


class Repeated(nn.Module):
    """One layer called two or three times, as the weights say, which the forward reads outside their block."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layer, self.head = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WORDS)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for _ in range(2 + int(self.head.bias[0] > 0)):
            x = torch.tanh(self.layer(x))
        out: Tensor = self.head(x)
        return out


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True)
    return nn.Sequential(
        nn.Embedding(WORDS, WIDTH), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(WIDTH, WORDS)
    )


MODELS: dict[str, Callable[[], nn.Module]] = {
    "tied": lambda: Language("tied"),
    "used": lambda: Language("used"),
    "plain": lambda: Language("plain"),
    "repeated": Repeated,
    "encoder": encoder,
}


def made(kind: str, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MODELS[kind]()


def data(count: int = 3) -> list[tuple[Tensor, Tensor]]:
    ids = torch.randint(0, WORDS, (count, 5, 7), generator=torch.Generator().manual_seed(0))
    return [(each[:, :-1], each[:, 1:]) for each in ids]


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[nn.Module, nn.Module], ls.Line]:
    """The line between two modules in files, which count as large."""
    monkeypatch.setattr(stored, "IN_MEMORY", 0)

    def between(*ends: nn.Module) -> ls.Line:
        for index, end in enumerate(ends):
            torch.save(end.state_dict(), tmp_path / f"{index}.pt")
        return ls.Line(tmp_path / "0.pt", tmp_path / "1.pt")

    return between


Between = Callable[[nn.Module, nn.Module], ls.Line]


def held(model: nn.Module) -> dict[str, tuple[Any, ...]]:
    """Every object that a module's dictionaries hold, by identity, and the numbers of its tensors."""
    named = dict(model.named_parameters()) | dict(model.named_buffers())
    numbers = {name: (id(each), None if each.is_meta else each.detach().clone()) for name, each in named.items()}
    return numbers | {name: (id(each), each.training, sorted(vars(each))) for name, each in model.named_modules()}


def same(one: dict[str, tuple[Any, ...]], other: dict[str, tuple[Any, ...]]) -> bool:
    return one.keys() == other.keys() and all(
        all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(one[name], other[name], strict=True))
        for name in one
    )


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("derivative", [False, True])
@pytest.mark.filterwarnings("ignore:.*non-contiguous chunk:UserWarning")
def test_the_numbers_are_those_of_alpha_by_alpha(kind: str, derivative: bool, line: Between) -> None:
    """To rounding of float32, 64 units: kernels are chosen by the way a call is made, such as fused attention."""
    path, model = line(made(kind, 0), made(kind, 1)), made(kind, 2)
    options: dict[str, Any] = {"alphas": [-0.1, 0.0, 0.3, 0.8, 1.0], "derivative": derivative}
    before = held(model)
    found = ls.profile(model, path, data(), layer_major=True, **options)
    assert same(before, held(model))
    expected = ls.profile(model, path, data(), layer_major=False, **options)
    assert found.how["plan"].startswith("all α together, block by block")
    assert found.loss == pytest.approx(expected.loss, rel=64 * 1.2e-7)
    assert found.covariance == pytest.approx(expected.covariance, rel=1e-4, abs=1e-10)
    assert found.accuracy == pytest.approx(expected.accuracy)
    assert found.how["example"] == expected.how["example"]
    assert found.derivative_reason == expected.derivative_reason
    if derivative:
        assert found.derivative == pytest.approx(expected.derivative, rel=1e-4, abs=1e-6)
    for fact in ("path_digest", "data_digest", "jumps"):
        assert found.how[fact] == expected.how[fact]
    assert found.distance == pytest.approx(expected.distance, rel=1e-12)


@pytest.mark.parametrize("kind", ["tied", "used", "plain", "encoder"])
@pytest.mark.parametrize("alphas", [3, 9])
def test_each_end_is_read_once(kind: str, alphas: int, line: Between, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = made(kind, 0), made(kind, 1)
    read: list[int] = []
    inner = stored.Span.read

    def counted(span: stored.Span) -> Tensor:
        found = inner(span)
        read.append(found.nbytes)
        return found

    monkeypatch.setattr(stored.Span, "read", counted)
    model = made(kind, 2).to("meta")
    if kind != "encoder":
        model.register_buffer("scale", torch.tensor(0.5), persistent=False)
    path = line(*ends)
    ls.profile(model, path, data(), alphas=alphas, layer_major=True)
    assert sum(read) <= 2.2 * sum(each.nbytes for each in ends[0].parameters())


def test_memory_decides_how_many_batches_wait_together(line: Between, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal losses, example by example: their order decides the covariance."""
    path, model = line(made("tied", 0), made("tied", 1)), made("tied", 2)
    expected = ls.profile(model, path, data(5), alphas=3, layer_major=True)
    monkeypatch.setattr(layer_major, "available_bytes", lambda: 0)
    alone = ls.profile(model, path, data(5), alphas=3, layer_major=True)
    monkeypatch.setattr(layer_major, "available_bytes", lambda: 1 << 40)
    monkeypatch.setattr(layer_major, "MOST_PASSES", 6)
    pairs = ls.profile(model, path, data(5), alphas=3, layer_major=True)
    for each in (alone, pairs):
        assert each.loss == pytest.approx(expected.loss, rel=1e-12)
        assert each.covariance == pytest.approx(expected.covariance, rel=1e-9)


class Keeping(Language):
    """Keeps what one layer gives until another one reads it."""

    def forward(self, ids: Tensor) -> Tensor:
        self.first = self.embed(ids)
        x = self.first
        for layer in self.layers:
            x = layer(x, mask=None)
        x = x + self.first
        self.first = None
        return self.head(x)


class Noting(Layer):
    """Leaves its output in an attribute."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        self.last = super().forward(x, mask)
        return self.last


class Drawing(Language):
    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids) + torch.rand(())


def noting(kind: str) -> nn.Module:
    model = Language(kind)
    model.layers[1] = Noting()
    return model


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (Keeping, "while it runs"),
        (noting, "its block 'layers.1' changes"),
        (Drawing, "random numbers"),
        (lambda _: Recurrent(), "its block 'cell' changes"),  # torch's LSTM keeps a list of its weights
    ],
)
def test_passes_that_influence_each_other_go_alpha_by_alpha(build: Any, reason: str, line: Between) -> None:
    torch.manual_seed(0)
    ends, model = (build("plain"), build("plain")), build("plain")
    path, before, threads = line(*ends), held(model), threading.active_count()
    with pytest.raises(ValueError, match=reason):
        ls.profile(model, path, data(), alphas=3, layer_major=True)
    assert threading.active_count() == threads
    by_itself, asked = (ls.profile(model, path, data(), alphas=3, layer_major=each) for each in (None, False))
    assert by_itself.loss.tolist() == asked.loss.tolist()
    assert by_itself.how["plan"].startswith("the module batch by batch")
    assert same(before, held(model))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"alphas": "adaptive"}, "adaptive points"),
        ({"workers": 2}, "workers="),
        ({"loss": ls.Loss("model", per="batch", weights=lambda y: torch.ones(1))}, "the model's own"),
    ],
)
def test_what_needs_one_alpha_at_a_time_is_refused(change: dict[str, Any], reason: str, line: Between) -> None:
    path = line(made("plain", 0), made("plain", 1))
    with pytest.raises(ValueError, match=reason):
        ls.profile(made("plain", 2), path, data(), layer_major=True, **{"alphas": 3} | change)
    held_in_memory = ls.Line(made("plain", 0), made("plain", 1))
    with pytest.raises(ValueError, match="no line between checkpoints in large files"):
        ls.profile(made("plain", 2), held_in_memory, data(), alphas=3, layer_major=True)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("too hot"), SystemExit])
@pytest.mark.parametrize("where", ["in a block", "between blocks"])
def test_whatever_is_raised_ends_all_threads(error: Any, where: str, line: Between) -> None:
    class Failing(Language):
        calls = 0

        def forward(self, ids: Tensor) -> Tensor:
            out = super().forward(ids)
            type(self).calls += 1
            if where == "between blocks" and self.calls == 4:
                raise error
            return out

    model = Failing("plain")
    path, threads = line(made("plain", 0), made("plain", 1)), threading.active_count()
    if where == "in a block":
        counted = [0]

        def fail(*_: Any) -> None:
            counted[0] += 1
            if counted[0] == 4:
                raise error

        model.layers[1].inner.register_forward_hook(fail)
    before = held(model)
    expected = ls.CallFailed if isinstance(error, RuntimeError) else error
    with pytest.raises(expected, match="batch 0 at α" if isinstance(error, RuntimeError) else None):
        ls.profile(model, path, data()[:1], alphas=6, derivative=False)
    assert threading.active_count() == threads
    assert same(before, held(model))
    assert torch.is_grad_enabled()


class Cut(torch.autograd.Function):
    """An operation without a derivative in forward mode."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (lambda x: Cut.apply(x), "no forward-mode derivative"),
        (lambda x: x.detach(), "does not follow the parameters"),
        (lambda x: 0.5 * x + 0.5 * x.detach(), "the derivative is cut or wrong"),
    ],
)
def test_derivatives_that_are_missing_or_wrong_are_withheld(alter: Any, reason: str, line: Between) -> None:
    class Altered(Language):
        def forward(self, ids: Tensor) -> Tensor:
            return alter(super().forward(ids))

    model = Altered("plain").double()
    path = line(made("plain", 0).double(), made("plain", 1).double())
    found = ls.profile(model, path, data(), alphas=3, layer_major=True)
    expected = ls.profile(model, path, data(), alphas=3, derivative=False)
    assert found.derivative is None
    assert reason in str(found.derivative_reason)
    assert found.loss == pytest.approx(expected.loss, rel=1e-12)


def test_examples_that_influence_each_other_are_seen_on_the_way(line: Between) -> None:
    class Mixing(Language):
        def forward(self, ids: Tensor) -> Tensor:
            out = super().forward(ids)
            return out - out.mean(0, keepdim=True)

    torch.manual_seed(0)
    path = line(Mixing(), Mixing())
    last = [(ids, targets[:, -1]) for ids, targets in data()]

    class Last(Mixing):
        def forward(self, ids: Tensor) -> Tensor:
            return super().forward(ids)[:, -1]

    found, expected = (ls.profile(Last(), path, last, alphas=3, layer_major=each) for each in (True, False))
    assert (
        found.how["example"]
        == expected.how["example"]
        == "one batch (its examples influence each other), weighed by its examples"
    )
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert found.examples == expected.examples


def test_precision_and_gradients_inside_a_forward_are_kept(line: Between) -> None:
    class Mixed(Language):
        def forward(self, ids: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(ids)

    torch.manual_seed(0)
    path, model = line(Mixed(), Mixed()), Mixed()
    found, expected = (
        ls.profile(model, path, data(), alphas=3, layer_major=each, derivative=False) for each in (True, False)
    )
    single = ls.profile(made("tied", 3), path, data(), alphas=3, derivative=False)
    assert found.loss == pytest.approx(expected.loss, rel=64 * 1.2e-7)
    assert found.loss != pytest.approx(single.loss, rel=1e-6)


def test_blocks_are_the_layers_and_what_lies_outside() -> None:
    assert list(blocks(made("tied", 0))) == ["embed", "layers.0", "layers.1", "layers.2", "head"]
    assert list(blocks(made("encoder", 0))) == ["0", "1.layers.0", "1.layers.1", "2"]
    assert list(blocks(nn.MultiheadAttention(4, 2))) == ["out_proj"]  # its own are used outside, one by one
    stages = nn.ModuleList(nn.ModuleList(nn.Linear(3, 3) for _ in range(2)) for _ in range(2))
    assert list(blocks(nn.ModuleList([stages]))) == ["0.0.0", "0.0.1", "0.1.0", "0.1.1"]
    shared = nn.Linear(2, 2)
    assert list(blocks(nn.ModuleList([shared, shared]))) == ["0"]
