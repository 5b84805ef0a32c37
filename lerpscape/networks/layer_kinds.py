"""The one table of what the nodes of a `torch.fx` graph mean.

A `Kind` folds the written forms of one operation into one: `nn.ReLU`, `F.relu`, `torch.relu` and `x.relu()` are `RELU`.
The package computes with several number systems on one graph: values and forward derivatives (`engine.graph`), Taylor
coefficients (`geometry.taylor_rules`), Taylor models (`certificates.layer_rules`), the order of hidden units
(`networks.symmetries`), and the depth of biases (`networks.bias_depths`). Each is an interpreter and a dict from kinds
to rules; a kind without a rule is refused by name. Abstract interpretation calls such a system an abstract domain and
its rules transfer functions; Taylor-mode automatic differentiation (jets) is one of them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn


@dataclass(frozen=True, eq=False)
class Kind:
    """One operation, its written forms, and what a walk over a graph asks about it.

    `settings` are the names of a function's arguments behind the first, in order; a layer has those that it holds as
    attributes of the same names. Forms in place (`add_`, `operator.iadd`) belong to the kind of the plain ones.
    """

    name: str
    modules: tuple[type[nn.Module], ...] = ()
    functions: tuple[Callable[..., Any], ...] = ()
    methods: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    elementwise: bool = False
    """Each element of the result depends on the elements at its own place only, and on no parameter."""
    arithmetic: bool = False
    """Of two operands, which are tensors or numbers such as sizes."""
    may_share_memory: bool = False
    """The result holds the numbers of the first argument, and may lie in the same memory."""
    linear_in_weights: bool = False
    """Weights times input, plus a bias."""
    normalises: bool = False
    """Takes away the scale of its input."""
    pools: bool = False
    """Combines neighbouring positions within each channel."""
    reads_shape: bool = False
    """Gives a shape or another attribute, not the numbers."""


# SELU is SELU_SCALE·(x for x > 0, else SELU_ALPHA·(e^x − 1)).
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805

_CONVOLVING = ("weight", "bias", "stride", "padding", "dilation", "groups", "padding_mode")
_AVERAGING = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
_MAXIMISING = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")

# Layers with weights
LINEAR = Kind("Linear", (nn.Linear,), (F.linear,), settings=("weight", "bias"), linear_in_weights=True)
CONV1D, CONV2D, CONV3D = (
    Kind(layer.__name__, (layer,), (function,), settings=_CONVOLVING, linear_in_weights=True)
    for layer, function in ((nn.Conv1d, F.conv1d), (nn.Conv2d, F.conv2d), (nn.Conv3d, F.conv3d))
)
CONV_TRANSPOSE = Kind(
    "ConvTranspose",
    (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
    settings=("weight", "bias", "stride", "padding", "output_padding", "groups", "dilation"),
    linear_in_weights=True,
)
EMBEDDING = Kind("Embedding", (nn.Embedding,), (F.embedding,), settings=("weight",))
PRELU = Kind("PReLU", (nn.PReLU,), (F.prelu,), settings=("weight",))

# Normalisation
BATCH_NORM = Kind(
    "BatchNorm",
    (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    (F.batch_norm,),
    settings=("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
    normalises=True,
)
INSTANCE_NORM = Kind(
    "InstanceNorm",
    (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    (F.instance_norm,),
    settings=("running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps"),
    normalises=True,
)
LAYER_NORM = Kind(
    "LayerNorm",
    (nn.LayerNorm,),
    (F.layer_norm, torch.layer_norm),
    settings=("normalized_shape", "weight", "bias", "eps"),
    normalises=True,
)
GROUP_NORM = Kind(
    "GroupNorm",
    (nn.GroupNorm,),
    (F.group_norm, torch.group_norm),
    settings=("num_groups", "weight", "bias", "eps"),
    normalises=True,
)
RMS_NORM = Kind(
    "RMSNorm", (nn.RMSNorm,), (F.rms_norm,), settings=("normalized_shape", "weight", "eps"), normalises=True
)
SOFTMAX = Kind("Softmax", (nn.Softmax,), (F.softmax, torch.softmax), ("softmax",), settings=("dim",))
LOG_SOFTMAX = Kind(
    "LogSoftmax", (nn.LogSoftmax,), (F.log_softmax, torch.log_softmax), ("log_softmax",), settings=("dim",)
)

# Activations
RELU = Kind(
    "ReLU",
    (nn.ReLU,),
    (F.relu, torch.relu, torch.relu_),
    ("relu", "relu_"),
    settings=("inplace",),
    elementwise=True,
)
LEAKY_RELU = Kind(
    "LeakyReLU", (nn.LeakyReLU,), (F.leaky_relu,), settings=("negative_slope", "inplace"), elementwise=True
)
RELU6 = Kind("ReLU6", (nn.ReLU6,), (F.relu6,), settings=("inplace",), elementwise=True)
HARDTANH = Kind("Hardtanh", (nn.Hardtanh,), (F.hardtanh,), settings=("min_val", "max_val", "inplace"), elementwise=True)
HARDSWISH = Kind("Hardswish", (nn.Hardswish,), (F.hardswish,), settings=("inplace",), elementwise=True)
HARDSIGMOID = Kind("Hardsigmoid", (nn.Hardsigmoid,), (F.hardsigmoid,), settings=("inplace",), elementwise=True)
ELU = Kind("ELU", (nn.ELU,), (F.elu,), settings=("alpha", "inplace"), elementwise=True)
SELU = Kind("SELU", (nn.SELU,), (F.selu, torch.selu), settings=("inplace",), elementwise=True)
CELU = Kind("CELU", (nn.CELU,), (F.celu, torch.celu), settings=("alpha", "inplace"), elementwise=True)
GELU = Kind("GELU", (nn.GELU,), (F.gelu,), settings=("approximate",), elementwise=True)
SILU = Kind("SiLU", (nn.SiLU,), (F.silu,), settings=("inplace",), elementwise=True)
MISH = Kind("Mish", (nn.Mish,), (F.mish,), settings=("inplace",), elementwise=True)
SOFTPLUS = Kind("Softplus", (nn.Softplus,), (F.softplus,), settings=("beta", "threshold"), elementwise=True)
SOFTSIGN = Kind("Softsign", (nn.Softsign,), (F.softsign,), elementwise=True)
TANH = Kind("Tanh", (nn.Tanh,), (F.tanh, torch.tanh), ("tanh",), elementwise=True)
SIGMOID = Kind("Sigmoid", (nn.Sigmoid,), (F.sigmoid, torch.sigmoid), ("sigmoid",), elementwise=True)
LOG_SIGMOID = Kind("LogSigmoid", (nn.LogSigmoid,), (F.logsigmoid,), elementwise=True)

# Pooling
AVG_POOL1D, AVG_POOL2D, AVG_POOL3D = (
    Kind(layer.__name__, (layer,), (function,), settings=_AVERAGING, pools=True)
    for layer, function in ((nn.AvgPool1d, F.avg_pool1d), (nn.AvgPool2d, F.avg_pool2d), (nn.AvgPool3d, F.avg_pool3d))
)
MAX_POOL1D, MAX_POOL2D, MAX_POOL3D = (
    Kind(layer.__name__, (layer,), (function,), settings=_MAXIMISING, pools=True)
    for layer, function in ((nn.MaxPool1d, F.max_pool1d), (nn.MaxPool2d, F.max_pool2d), (nn.MaxPool3d, F.max_pool3d))
)
ADAPTIVE_AVG_POOL1D, ADAPTIVE_AVG_POOL2D, ADAPTIVE_AVG_POOL3D = (
    Kind(layer.__name__, (layer,), (function,), settings=("output_size",), pools=True)
    for layer, function in (
        (nn.AdaptiveAvgPool1d, F.adaptive_avg_pool1d),
        (nn.AdaptiveAvgPool2d, F.adaptive_avg_pool2d),
        (nn.AdaptiveAvgPool3d, F.adaptive_avg_pool3d),
    )
)
ADAPTIVE_MAX_POOL = Kind(
    "AdaptiveMaxPool",
    (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d),
    settings=("output_size", "return_indices"),
    pools=True,
)

# What leaves the numbers as they are
IDENTITY = Kind("Identity", (nn.Identity,), elementwise=True, may_share_memory=True)
DROPOUT = Kind(
    "Dropout",
    (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d),
    settings=("p", "training", "inplace"),
    elementwise=True,
    may_share_memory=True,
)
FLATTEN = Kind(
    "flatten",
    (nn.Flatten,),
    (torch.flatten,),
    ("flatten",),
    settings=("start_dim", "end_dim"),
    may_share_memory=True,
)
UNFLATTEN = Kind(
    "unflatten", (nn.Unflatten,), (), ("unflatten",), settings=("dim", "unflattened_size"), may_share_memory=True
)
RESHAPE = Kind("reshape", (), (torch.reshape,), ("reshape", "view"), may_share_memory=True)
SQUEEZE = Kind("squeeze", (), (torch.squeeze,), ("squeeze",), may_share_memory=True)
UNSQUEEZE = Kind("unsqueeze", (), (torch.unsqueeze,), ("unsqueeze",), may_share_memory=True)
TRANSPOSE = Kind("transpose", (), (torch.transpose,), ("transpose", "t"), may_share_memory=True)
PERMUTE = Kind("permute", (), (torch.permute,), ("permute",), may_share_memory=True)
EXPAND = Kind("expand", methods=("expand",), may_share_memory=True)
CONTIGUOUS = Kind("contiguous", methods=("contiguous",), elementwise=True, may_share_memory=True)
CLONE = Kind("clone", (), (torch.clone,), ("clone",), elementwise=True)
CAST = Kind("cast", methods=("float", "double", "to"), may_share_memory=True)
DETACH = Kind("detach", (), (torch.detach,), ("detach",), may_share_memory=True)
SPLIT = Kind("split", (), (torch.split, torch.chunk), ("split", "chunk"), may_share_memory=True)
NARROW = Kind("narrow", methods=("narrow",), may_share_memory=True)
INDEX = Kind("getitem", (), (operator.getitem,), settings=("index",), may_share_memory=True)
ATTRIBUTE = Kind("getattr", (), (getattr,), settings=("name",), may_share_memory=True, reads_shape=True)
SIZE = Kind("size", methods=("size",), reads_shape=True)
DIM = Kind("dim", methods=("dim",), reads_shape=True)
PAD = Kind("pad", (), (F.pad,), settings=("pad", "mode", "value"))
CONCATENATE = Kind("cat", (), (torch.cat, torch.concat), settings=("dim",))

# Arithmetic
_OF_TWO: dict[str, Any] = {"elementwise": True, "arithmetic": True}
_SCALED = ("other", "alpha")
ADD = Kind("add", (), (operator.add, operator.iadd, torch.add), ("add", "add_"), _SCALED, **_OF_TWO)
SUBTRACT = Kind("sub", (), (operator.sub, operator.isub, torch.sub), ("sub", "sub_"), _SCALED, **_OF_TWO)
MULTIPLY = Kind("mul", (), (operator.mul, operator.imul, torch.mul), ("mul", "mul_"), ("other",), **_OF_TWO)
DIVIDE = Kind("div", (), (operator.truediv, operator.itruediv), settings=("other",), **_OF_TWO)
EQUAL = Kind("eq", (), (operator.eq,), settings=("other",), **_OF_TWO)
NOT_EQUAL = Kind("ne", (), (operator.ne,), settings=("other",), **_OF_TWO)
NEGATE = Kind("neg", (), (operator.neg, torch.neg), ("neg",), elementwise=True)
MEAN = Kind("mean", (), (torch.mean,), ("mean",), settings=("dim", "keepdim"))
SUM = Kind("sum", (), (torch.sum,), ("sum",), settings=("dim", "keepdim"))

KINDS: tuple[Kind, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Kind))
_OF_MODULES = {module: kind for kind in KINDS for module in kind.modules}
_OF_TARGETS: dict[Any, Kind] = {form: kind for kind in KINDS for form in (*kind.functions, *kind.methods)}


def kind_of(node: fx.Node, modules: Mapping[str, nn.Module]) -> Kind | None:
    """The kind of a node, None where the table does not have it; `modules` are the layers by their names.

    >>> graph = fx.Tracer().trace(lambda x: torch.relu(x).relu())
    >>> [kind.name for node in graph.nodes if (kind := kind_of(node, {}))]
    ['ReLU', 'ReLU']
    """
    if node.op == "call_module":
        return kind_of_layer(modules[str(node.target)])
    return _OF_TARGETS.get(node.target) if node.op in ("call_function", "call_method") else None


def kind_of_layer(layer: nn.Module) -> Kind | None:
    """The kind of a layer of torch.nn; None for a subclass, whose forward may be another.

    >>> kind_of_layer(nn.Dropout2d()).name
    'Dropout'
    """
    return _OF_MODULES.get(type(layer))


def settings_of(node: fx.Node, modules: Mapping[str, nn.Module]) -> dict[str, Any]:
    """What a node is given beside its first argument, by the kind's own names, whatever the written form.

    What is left to its default is absent for functions. A layer is taken as it is in evaluation mode.

    Raises `TypeError` for more arguments than the kind has names for.

    >>> graph = fx.Tracer().trace(lambda x: F.leaky_relu(x, 0.1))
    >>> settings_of(list(graph.nodes)[1], {})
    {'negative_slope': 0.1, 'inplace': False}
    """
    kind = kind_of(node, modules)
    assert kind is not None
    if node.op == "call_module":
        return settings_of_layer(modules[str(node.target)], kind)
    positional = node.args[1:] if node.args else ()
    if len(positional) > len(kind.settings):
        raise TypeError(f"{node.name!r}: {kind.name} takes {len(kind.settings)} arguments behind its input.")
    return dict(zip(kind.settings, positional, strict=False)) | {k: v for k, v in node.kwargs.items() if k != "input"}


def settings_of_layer(layer: nn.Module, kind: Kind) -> dict[str, Any]:
    """The settings that a layer holds as attributes, its tensors among them, in evaluation mode.

    >>> settings_of_layer(nn.LeakyReLU(0.1), LEAKY_RELU)
    {'negative_slope': 0.1, 'inplace': False}
    """
    held = {name: getattr(layer, name) for name in kind.settings if hasattr(layer, name)}
    return held | {"training": False} if "training" in held else held


def does_nothing(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a node gives its input as it is: an identity, or a dropout that is off.

    >>> [does_nothing(node, {}) for node in fx.Tracer().trace(lambda x: F.dropout(x, 0.5, False)).nodes]
    [False, True, False]
    """
    kind = kind_of(node, modules)
    return kind is IDENTITY or (kind is DROPOUT and not settings_of(node, modules).get("training", True))
