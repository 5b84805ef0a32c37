"""A grammar of modules: blocks that take one example's shape and give a module and the shape behind it.

A *special* block does something that a measurement may assume no module does: it looks at other examples, writes to its
input, keeps a state, branches on values. Of a network without one, every measurement must succeed.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from layer_forms import ACTIVATIONS, written
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

Shape = tuple[int, ...]
VECTOR, SEQUENCE, IMAGE = 1, 2, 3  # numbers of dimensions of one example
ANY = (VECTOR, SEQUENCE, IMAGE)


class Apply(nn.Module):
    """A forward that is a function of the module and its input, with the parts that it uses as attributes."""

    def __init__(self, function: Callable[[Any, Any], Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x: Any) -> Any:
        return self.function(self, x)


@dataclass(frozen=True)
class Block:
    """`make(shape, rng)` gives a module, or a module and the new shape where that is another one."""

    make: Callable[[Shape, random.Random], Any]
    ranks: tuple[int, ...] = (VECTOR,)
    special: bool = False
    first: bool = False  # writes to its input: tried on the caller's own tensor
    float32: bool = False  # computes partly in a narrower type, so that a derivative by differences is noise


BLOCKS: dict[str, Block] = {}


def block(name: str, *ranks: int, **traits: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def add(make: Callable[..., Any]) -> Callable[..., Any]:
        BLOCKS[name] = Block(make, ranks or (VECTOR,), **traits)
        return make

    return add


def forward(name: str, function: Callable[[Any, Any], Any], *ranks: int, layer: bool = True, **traits: bool) -> None:
    """A block that keeps the shape; with `layer`, the function may use `self.a`, a linear layer of the last size."""

    def make(shape: Shape, rng: random.Random) -> nn.Module:
        return Apply(function, a=nn.Linear(shape[-1], shape[-1])) if layer else Apply(function)

    BLOCKS[name] = Block(make, ranks or (VECTOR,), **traits)


def special(name: str, function: Callable[[Any, Any], Any], *ranks: int, **traits: bool) -> None:
    forward(name, function, *ranks, special=True, **traits)


# --- plain blocks -----------------------------------------------------------------------------------------------------

for _kind in ACTIVATIONS:
    for _form in (_kind.modules[0], *_kind.functions, *_kind.methods):
        BLOCKS[f"{_kind.name} as {getattr(_form, '__name__', _form)}"] = Block(
            lambda shape, rng, kind=_kind, form=_form: written(kind, form),
            ANY,
            special=getattr(_form, "__name__", str(_form)).endswith("_"),  # in place
        )


@block("Linear")
def _linear(shape, rng):
    width = rng.randint(3, 7)
    return nn.Linear(shape[0], width, bias=rng.random() < 0.8), (width,)


@block("Linear ReLU Linear")  # the block that is swept
def _two(shape, rng):
    return nn.Sequential(nn.Linear(shape[0], 8), nn.ReLU(), nn.Linear(8, 5)), (5,)


@block("residual")
def _residual(shape, rng):
    parts = {"inner": nn.Sequential(nn.Linear(*shape, 4), nn.Tanh(), nn.Linear(4, *shape))}
    return Apply(lambda s, x: x + s.scale * s.inner(x) - 0.25, scale=nn.Parameter(torch.tensor(0.7)), **parts)


@block("concatenate")
def _concatenate(shape, rng):
    return Apply(lambda s, x: torch.cat([s.a(x), x], dim=1), a=nn.Linear(*shape, 3)), (shape[0] + 3,)


@block("shared twice")
def _shared(shape, rng):
    return Apply(lambda s, x: s.a(torch.relu(s.a(x))), a=nn.Linear(shape[0], shape[0]))


@block("two names of one module")
def _two_names(shape, rng):
    one = nn.Linear(shape[0], shape[0])
    return nn.Sequential(one, nn.ReLU(), one)


@block("tied weights")
def _tied(shape, rng):
    one, two = nn.Linear(shape[0], shape[0]), nn.Linear(shape[0], shape[0], bias=False)
    two.weight = one.weight
    return nn.Sequential(one, nn.Tanh(), two)


@block("LayerNorm", *ANY)
def _layer_norm(shape, rng):
    return nn.LayerNorm(shape)


@block("RMSNorm", *ANY)
def _rms_norm(shape, rng):
    return nn.RMSNorm(shape[-1], eps=1e-5)  # by default eps is that of the type, another function in float32


@block("GroupNorm", SEQUENCE, IMAGE)
def _group_norm(shape, rng):
    return nn.GroupNorm(1, shape[0])


@block("InstanceNorm", IMAGE)
def _instance_norm(shape, rng):
    return nn.InstanceNorm2d(shape[0], affine=True)


@block("BatchNorm", *ANY)
def _batch_norm(shape, rng):
    layer = (nn.BatchNorm2d if len(shape) == IMAGE else nn.BatchNorm1d)(shape[0])
    layer.running_mean.normal_(0, 0.3)
    layer.running_var.uniform_(0.5, 2)
    return layer


@block("Conv2d", IMAGE)
def _conv(shape, rng):
    channels = rng.choice((2, 4))
    padding, groups = rng.choice((0, 1)), rng.choice((1, shape[0] if channels % shape[0] == 0 else 1))
    size = shape[1] - 2 + 2 * padding
    if size < 1:
        return nn.Identity()
    return nn.Conv2d(shape[0], channels, 3, padding=padding, groups=groups), (channels, size, size)


@block("ConvTranspose2d", IMAGE)
def _conv_transpose(shape, rng):
    return nn.ConvTranspose2d(shape[0], 2, 2), (2, shape[1] + 1, shape[2] + 1)


@block("Conv1d", SEQUENCE)
def _conv1d(shape, rng):
    return nn.Conv1d(shape[0], 4, 3, padding=1), (4, shape[1])


@block("pooling", SEQUENCE, IMAGE)
def _pooling(shape, rng):
    flat = len(shape) == SEQUENCE
    if shape[-1] < 4:
        return nn.Identity()
    layer = rng.choice((nn.MaxPool1d, nn.AvgPool1d) if flat else (nn.MaxPool2d, nn.AvgPool2d))
    return layer(2), (shape[0], *(size // 2 for size in shape[1:]))


@block("adaptive pooling", SEQUENCE, IMAGE)
def _adaptive(shape, rng):
    flat = len(shape) == SEQUENCE
    layer = rng.choice((nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d) if flat else (nn.AdaptiveAvgPool2d,))
    return layer(2), (shape[0], *(2 for _ in shape[1:]))


@block("attention", SEQUENCE)
def _attention(shape, rng):
    width = shape[1]

    def attend(s, x):
        return s.v(x) + (s.q(x) @ s.k(x).transpose(1, 2) / width**0.5).softmax(-1) @ s.v(x)

    return Apply(attend, q=nn.Linear(width, width), k=nn.Linear(width, width), v=nn.Linear(width, width))


@block("Transformer layer", SEQUENCE)
def _transformer(shape, rng):
    return nn.TransformerEncoderLayer(shape[1], 1, 6, batch_first=True)


@block("LSTM", SEQUENCE)
def _lstm(shape, rng):
    return Apply(lambda s, x: s.cell(x)[0], cell=nn.LSTM(shape[1], 4, batch_first=True)), (shape[0], 4)


@block("Flatten", SEQUENCE, IMAGE)
def _flatten(shape, rng):
    return nn.Flatten(), (torch.Size(shape).numel(),)


@block("mean over positions", SEQUENCE)
def _mean(shape, rng):
    return Apply(lambda s, x: x.mean(1)), (shape[1],)


@block("Dropout", *ANY)
def _dropout(shape, rng):
    return nn.Dropout(0.5)


@block("weight_norm")
def _weight_norm(shape, rng):
    return parametrizations.weight_norm(nn.Linear(shape[0], 5)), (5,)


@block("orthogonal", special=True)
def _orthogonal(shape, rng):
    return parametrizations.orthogonal(nn.Linear(shape[0], shape[0]))


@block("spectral_norm", special=True)
def _spectral_norm(shape, rng):
    return parametrizations.spectral_norm(nn.Linear(shape[0], 5)), (5,)


class _Positive(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return F.softplus(weight)


@block("own parametrisation")
def _own_parametrisation(shape, rng):
    layer = nn.Linear(shape[0], 5)
    parametrize.register_parametrization(layer, "weight", _Positive())
    return layer, (5,)


forward("functional", lambda s, x: F.relu(F.linear(x, s.a.weight * 0.5, s.a.bias)) * 2 - x / 4, *ANY)
forward("gate", lambda s, x: torch.sigmoid(s.a(x)) * x, *ANY)
forward("slices", lambda s, x: torch.cat([x[:, 1:], x[:, :1]], 1) + s.a(x), *ANY)
forward("in place on activations", lambda s, x: s.a(x).add_(0.3).relu_().mul_(1.5), *ANY)
forward("augmented assignment", lambda s, x: _augmented(s.a(x), x), *ANY)
forward("clamped and absolute", lambda s, x: s.a(x).clamp(-1.0, 1.5) + x.abs(), *ANY)
forward("where", lambda s, x: torch.where(s.a(x) > 0, x, 0.5 * s.a(x)), *ANY)
forward("topk inside an example", lambda s, x: s.a(x) + x.topk(2, dim=-1).values.sum(-1, keepdim=True), *ANY)
forward("einsum", lambda s, x: torch.einsum("...i,ji->...j", x, s.a.weight) + x.norm(dim=-1, keepdim=True), *ANY)


def _augmented(h: Tensor, x: Tensor) -> Tensor:
    h += x
    h *= 0.7
    return h


# --- special blocks ---------------------------------------------------------------------------------------------------

_LIMITS = (0.5, 2.0, 10.0)


def _guards() -> None:
    """Branches on values that only some batches reach; the trace does not see them, or cannot be made."""
    tests: dict[str, Callable[[Any, float], bool]] = {
        "isinstance": lambda h, c: isinstance(h, Tensor) and bool(h.max() > c),
        "type": lambda h, c: type(h) is not torch.fx.Proxy and float(h.detach().amax()) > c,
        "caught": _caught,
        "item": lambda h, c: h.abs().max().item() > c,
    }
    ways: dict[str, Callable[[Tensor, float], Tensor]] = {
        "clamp": lambda h, c: h.clamp(max=c),
        "halve": lambda h, c: 0.5 * h,
        "negate": lambda h, c: -h,
    }
    for (test, reached), (way, change) in product(tests.items(), ways.items()):

        def guarded(s: Any, x: Tensor, reached: Any = reached, change: Any = change) -> Tensor:
            h = torch.relu(s.a(x))
            return change(h, s.limit) if reached(h, s.limit) else h

        BLOCKS[f"guard by {test}, {way}"] = Block(
            lambda shape, rng, f=guarded: Apply(f, a=nn.Linear(shape[-1], shape[-1]), limit=rng.choice(_LIMITS)),
            ANY,
            special=True,
        )


def _caught(h: Tensor, limit: float) -> bool:
    try:
        return bool((h > limit).any())
    except Exception:  # as code does that must run under a tracer as well
        return False


_guards()
special("guard on the number of rows", lambda s, x: s.a(x) if len(x) > 4 else x)
special("guard on a shape read by torch", lambda s, x: s.a(x) * (0.5 if x.shape[0] % 2 else 1.0), *ANY)

special("less the batch's mean", lambda s, x: s.a(x) - s.a(x).mean(0), *ANY)
special("softmax over the batch", lambda s, x: s.a(x).softmax(0) * 3, *ANY)
special("divided by the batch's maximum", lambda s, x: s.a(x) / (1 + s.a(x).abs().amax(0)), *ANY)
special("sorted over the batch", lambda s, x: s.a(x).sort(0).values, *ANY)
special("the neighbour's row added", lambda s, x: s.a(x) + 0.5 * x.roll(1, 0), *ANY)
special("the first row added", lambda s, x: s.a(x) + x[:1], *ANY)
special("times the number of rows", lambda s, x: s.a(x) * (len(x) / 8), *ANY)
special("divided by the batch's norm", lambda s, x: s.a(x) / x.norm())
special("rows in order of a score", lambda s, x: s.a(x)[x.sum(1).argsort()])
special("running sum over rows", lambda s, x: s.a(x.cumsum(0) / 8))
special("whitened in training's way", lambda s, x: F.batch_norm(s.a(x), None, None, training=True))

special("input sub_", lambda s, x: x.sub_(0.5).div_(2.0), *ANY, first=True, layer=False)
special("input first column zeroed", lambda s, x: _zeroed(x), *ANY, first=True, layer=False)
special("input clamped through a view", lambda s, x: _through_view(x), *ANY, first=True, layer=False)
special("input written through .data", lambda s, x: _data_written(x), *ANY, first=True, layer=False)
special("input written through numpy", lambda s, x: _numpy_written(x), *ANY, first=True, layer=False)
special("input shuffled in place by ReLU", lambda s, x: F.relu(x, inplace=True), *ANY, first=True, layer=False)


def _zeroed(x: Tensor) -> Tensor:
    x[:, 0] *= 0.5
    return x


def _through_view(x: Tensor) -> Tensor:
    x.view(-1).mul_(0.8)
    return x


def _data_written(x: Tensor) -> Tensor:
    x.data.mul_(0.8)
    return x


def _numpy_written(x: Tensor) -> Tensor:
    values = x.detach().numpy()
    values *= 0.8
    return x


def _layer_with(change: Callable[[nn.Module], Any]) -> Callable[..., nn.Module]:
    def make(shape: Shape, rng: random.Random) -> nn.Module:
        inner = nn.Sequential(nn.Linear(shape[0], shape[0]), nn.ReLU(), nn.Linear(shape[0], shape[0]))
        change(inner)
        return inner

    return make


def _patched(inner: nn.Module) -> None:
    plain = inner[1].forward
    inner[1].forward = lambda x: plain(x).clamp(max=0.4)


for _name, _change in {
    "forward hook": lambda m: m[1].register_forward_hook(lambda s, i, o: o.clamp(max=0.6)),
    "forward hook in place": lambda m: m[0].register_forward_hook(lambda s, i, o: o.mul_(0.5)),
    "forward hook that only looks": lambda m: m[1].register_forward_hook(lambda s, i, o: None),
    "pre-hook": lambda m: m[2].register_forward_pre_hook(lambda s, i: (i[0] * 0.5 + 0.1,)),
    "hook on the whole": lambda m: m.register_forward_hook(lambda s, i, o: torch.tanh(o)),
    "patched forward": _patched,
    "old weight_norm": lambda m: _old(nn.utils.weight_norm, m[0]),
    "old spectral_norm": lambda m: _old(nn.utils.spectral_norm, m[0]),
}.items():
    BLOCKS[_name] = Block(_layer_with(_change), special=True)


def _old(function: Callable[[nn.Module], Any], layer: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        function(layer)


special("detached factor", lambda s, x: s.a(x) * x.detach().abs())
special("detached output", lambda s, x: s.a(x).detach() + 0.1 * x)
special("straight-through rounding", lambda s, x: _straight(s.a(x), lambda h: h.mul(4).round() / 4))
special("straight-through sign", lambda s, x: _straight(s.a(x), torch.sign))
special("factor by .item()", lambda s, x: s.a(x) * (1 + s.a.weight.abs().mean().item()))
special("factor by .data", lambda s, x: s.a(x) * s.a.weight.data.norm())
special("numpy inside", lambda s, x: torch.from_numpy(s.a(x).detach().numpy() ** 2) + x)
special("no_grad around a part", lambda s, x: _without_grad(s.a, x) + x)
special("own autograd function", lambda s, x: _Own.apply(s.a(x)))
special("heaviside", lambda s, x: torch.heaviside(s.a(x), torch.ones((), dtype=x.dtype)) + s.a(x))


def _straight(h: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    return h + (function(h) - h).detach()


def _without_grad(layer: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.relu(layer(x))


class _Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clamp(-1, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


STATEFUL: set[str] = set()


def _stateful(name: str, function: Callable[[Any, Any], Any], **parts: Callable[[int], Any]) -> None:
    def make(shape: Shape, rng: random.Random) -> nn.Module:
        made = {part: value(shape[-1]) for part, value in parts.items()}
        return Apply(function, a=nn.Linear(shape[-1], shape[-1]), **made)

    BLOCKS[name] = Block(make, special=True)
    STATEFUL.add(name)


def _after(s: Any, **changes: Any) -> Any:
    for name, value in changes.items():
        setattr(s, name, value)
    return s


_stateful("counts its calls", lambda s, x: _after(s, calls=s.calls + 1).a(x), calls=lambda n: 0)
_stateful("counter as a buffer", lambda s, x: (s.calls.add_(1), s.a(x))[1], calls=lambda n: torch.tensor(0))
_stateful("depends on its calls", lambda s, x: _after(s, calls=s.calls + 1).a(x) / s.calls, calls=lambda n: 0)
_stateful("keeps its last output", lambda s, x: _after(s, last=s.a(x)).last, last=lambda n: None)
_stateful("appends to a list", lambda s, x: (s.seen.append(x), s.a(x))[1], seen=lambda n: [])
_stateful(
    "caches the first scale",
    lambda s, x: s.a(x) * (s.scale if s.scale is not None else _after(s, scale=x.abs().mean()).scale),
    scale=lambda n: None,
)
_stateful(
    "caches a product of weights",
    lambda s, x: x @ (s.kept if s.kept is not None else _after(s, kept=s.a.weight @ s.a.weight).kept),
    kept=lambda n: None,
)
_stateful(
    "running mean in evaluation",
    lambda s, x: (s.a(x) - s.mean, s.mean.mul_(0.9).add_(0.1 * x.detach().mean(0)))[0],
    mean=lambda n: torch.zeros(n),
)
_stateful(
    "started by its first batch",
    lambda s, x: (s.a(x) if s.started else _after(s, started=True, shift=x.mean(0)).a(x)) - s.shift,
    started=lambda n: False,
    shift=lambda n: None,
)
_stateful("weight clamped in forward", lambda s, x: (s.a.weight.data.clamp_(-0.3, 0.3), s.a(x))[1])
_stateful("weight normalised in forward", lambda s, x: (_renormalised(s.a), s.a(x))[1])
_stateful("replaces its weight", lambda s, x: (_replaced(s.a), s.a(x))[1])


def _renormalised(layer: nn.Linear) -> None:
    with torch.no_grad():
        layer.weight.div_(layer.weight.norm())


def _replaced(layer: nn.Linear) -> None:
    layer.weight = nn.Parameter(layer.weight.detach().clamp(-0.4, 0.4))


special("autocast inside", lambda s, x: _autocast(s.a, x), *ANY, float32=True)
special("float32 inside", lambda s, x: _narrow(s.a, x), *ANY, float32=True)
special("noise in evaluation", lambda s, x: s.a(x) + 0.1 * torch.randn_like(x), *ANY)
special("dropout that is always on", lambda s, x: F.dropout(s.a(x), 0.3, training=True), *ANY)


RANDOM = ("noise in evaluation", "dropout that is always on")


def _autocast(layer: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return layer(x).to(x.dtype)


def _narrow(layer: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x.float(), layer.weight.float(), layer.bias.float()).to(x.dtype)


# --- networks ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parts:
    """Two inputs in an object, as graph batches come."""

    x: Tensor
    z: Tensor

    def __len__(self) -> int:
        return len(self.x)


class Network(nn.Module):
    """Blocks behind one another, and inputs in one of the ways in which models take them."""

    def __init__(self, body: nn.Module, takes: str, side: nn.Module | None, squeeze: bool, gain: float) -> None:
        super().__init__()
        self.body, self.takes, self.side, self.squeeze, self.gain = body, takes, side, squeeze, gain

    def forward(self, x: Any, z: Any = None, scale: float = 1.0) -> Any:
        if self.takes == "object":
            x, z = x.x, x.z
        out = self.body(x)
        if self.side is not None:
            out = out + scale * self.side(z)
        if self.gain != 1.0:
            out = self.gain * out
        if self.squeeze:
            out = out.squeeze()
        return {"logits": out, "hidden": x} if self.takes == "dict" else out


def fitting(shape: Shape, *, special: bool, at_front: bool) -> list[str]:
    """Names of the blocks that an example of this shape fits."""
    return [
        name
        for name, each in BLOCKS.items()
        if len(shape) in each.ranks and each.special == special and (at_front or not each.first)
    ]


def front(family: str) -> tuple[list[nn.Module], Shape]:
    """What a family of networks begins with, and the shape of one example behind it."""
    if family == "tokens":
        return [nn.Embedding(11, 4)], (5, 4)
    return [], {"vectors": (5,), "images": (2, 6, 6), "sequences": (3, 6)}[family]


def made(name: str, shape: Shape, rng: random.Random) -> tuple[nn.Module, Shape]:
    found = BLOCKS[name].make(shape, rng)
    return found if isinstance(found, tuple) else (found, shape)


def network(
    family: str,
    blocks: tuple[str, ...],
    *,
    takes: str,
    outputs: int,
    squeeze: bool,
    gain: float,
    seed: int,
    weights: int,
) -> nn.Module:
    """The network of these blocks; one that does not fit its place is left out. `weights` seeds what it begins with."""
    rng = random.Random(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(weights)
        layers, shape = front(family)
        for place, name in enumerate(blocks):
            if name in fitting(shape, special=BLOCKS[name].special, at_front=place == 0 and family != "tokens"):
                layer, shape = made(name, shape, rng)
                layers.append(layer)
        layers += [nn.Flatten(), nn.Linear(torch.Size(shape).numel(), outputs)]
        side = nn.Linear(3, outputs) if takes != "tensor" else None
        return Network(nn.Sequential(*layers), takes, side, squeeze, gain)
