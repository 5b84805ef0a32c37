"""A module at given params: matched with a path, called without a trace left in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lerpscape.base.errors import EndpointMismatch, explain
from lerpscape.engine.graph import Graph, traced
from lerpscape.networks.deferred import converted
from lerpscape.networks.lending import Lender
from lerpscape.paths.checkpoints import Params, continuous, in_dtype, tie_key
from lerpscape.paths.distances import distances
from lerpscape.paths.fitting_names import fitting_prefixes, prefix_hint
from lerpscape.paths.library_names import own_names, unsaved_names
from lerpscape.paths.line import Line
from lerpscape.paths.path import ParamPath
from lerpscape.paths.unlike_vectors import is_float8, jumping


class ModelOnPath:
    """A module whose parameters and buffers come from a path, on one device and in one dtype.

    Tied weights are one tensor, non-persistent buffers come from the module, and every other tensor must be on the
    path under the module's name for it (prefixes of all names aside). Without a `dtype`, each tensor has the type of
    the module's own (that of the path where the module is a mere plan): the path is computed in the widest of these,
    and half precision is rounded to last.

    `known` has the path's name for each of the module's tensors, `constants` the tensors that only the module has.

    Raises `EndpointMismatch` for names or shapes that the module and the path do not share.
    """

    def __init__(
        self, model: nn.Module, path: ParamPath, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> None:
        self.model = model
        self.lender = Lender(model)
        self.device = _device(model, path, device)
        self.dtype = dtype
        self.path = path.to(self.device, dtype or widest_type(model))
        self.given = path
        self.known, self.constants = _matched_names(model, path)
        without = [name for name, tensor in self.constants.items() if tensor.is_meta]
        if without:
            raise EndpointMismatch(
                explain(
                    expected="a model whose buffers that are in no checkpoint have their numbers.",
                    got=f"{without[0]!r} on the device meta, which the checkpoints do not have.",
                    hint="Build it so that only its parameters are on meta, as accelerate.init_empty_weights() does.",
                )
            )
        for name, tensor in self.constants.items():
            self.constants[name] = tensor.to(self.device, in_dtype(tensor, dtype))
        own = dict(model.named_parameters()) | dict(model.named_buffers())
        self._dtypes = {} if dtype or _is_plan(model) else {name: own[name].dtype for name in self.known}
        self.batch_norms = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}

    @cached_property
    def graph(self) -> Graph | str:
        """The module's traced operations, or why they are not known; traced once, for the planner and the evaluator."""
        return traced(self.model)

    def at(self, alpha: float) -> Params:
        """Every tensor of the module at α, by the module's names.

        They are copies: a module may write to them, and a path's ends must not change.
        """
        if self.lies_in_files:
            return self._read(alpha)
        tensors = self.path.at(alpha)
        fresh = self.path.moving if type(self.path) is Line else ()  # any other path may keep what it gives
        state = self._by_name(tensors)
        return {name: tensor if self.known.get(name) in fresh else tensor.clone() for name, tensor in state.items()}

    @property
    def lies_in_files(self) -> bool:
        """Whether the path is a line whose tensors are read from files when they are asked for."""
        return isinstance(self.path, Line) and self.path.lies_in_files

    def _read(self, alpha: float) -> Params:
        """The tensors at α of a line in files, one read after the other: never both ends of all."""
        assert isinstance(self.path, Line)
        found: Params = {}
        for name, known in self.known.items():
            ends = self.path.ends_of(known)
            at_alpha = self.cast(name, self.path.between_ends(ends, alpha))
            found[name] = at_alpha.clone() if any(at_alpha is end for end in ends) else at_alpha
            del ends, at_alpha
        return found | {name: tensor.clone() for name, tensor in self.constants.items()}

    def ends(self) -> tuple[Params, Params]:
        """Every tensor of the module at both ends, in the path's own memory but for buffers: not to be written to."""
        start, end = (self._by_name(side.tensors) for side in (self.path.start, self.path.end))
        for name, _ in self.model.named_buffers():
            start[name], end[name] = start[name].clone(), end[name].clone()
        return start, end

    def _by_name(self, tensors: Mapping[str, Tensor]) -> Params:
        return {name: self.cast(name, tensors[known]) for name, known in self.known.items()} | self.constants

    def as_trained(self, state: Params) -> Params:
        """The tensors with `requires_grad` where the module's own parameters have it.

        Nothing is differentiated by it, but torch chooses its kernels by it, and they round differently: a linear
        layer on sequences that are not contiguous, as those of an LSTM, is one product then and many if not.
        """
        trained = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        return {name: each.detach().requires_grad_() if name in trained else each for name, each in state.items()}

    def velocity(self, alpha: float) -> Params:
        """dθ/dα of the module's tensors that move."""
        velocity = self.path.velocity(alpha)
        if type(self.path) is not Line:
            velocity = {name: tensor.clone() for name, tensor in velocity.items()}
        return {name: self.cast(name, velocity[known]) for name, known in self.known.items() if known in velocity}

    def velocities(self, alpha: float) -> tuple[list[str], Callable[[str], Tensor]]:
        """Names of the module's tensors that move, and a function that gives the dθ/dα of one of them.

        Along a line, no more of them are in memory than are asked for.
        """
        if type(self.path) is not Line:
            velocity = self.velocity(alpha)
            return list(velocity), velocity.__getitem__
        line, moving = self.path, set(self.path.moving)
        names = [name for name, known in self.known.items() if known in moving]
        return names, lambda name: self.cast(name, line.velocity_of(self.known[name]))

    def cast(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor of the path in the type of the module's own; integers stay."""
        return converted(tensor, tensor.device, self.dtype_of(name, tensor))

    def dtype_of(self, name: str, tensor: Tensor) -> torch.dtype:
        """The type in which the module has this tensor of the path."""
        return self._dtypes.get(name, tensor.dtype) if continuous(tensor) else tensor.dtype

    def jumps(self) -> list[str]:
        """The module's tensors that are not interpolated and differ at the ends of the path."""
        differing = set(jumping(self.path.start.tensors, self.path.end.tensors))
        return [name for name, known in self.known.items() if known in differing]

    def distances(self) -> tuple[float, float]:
        """‖θ_T − θ₀‖₂ over the module's parameters, tied ones once, and the same relative to ‖θ₀‖."""
        if isinstance(self.given, Line):
            return self.given.distances(self._parameters())
        return distances(self.given.start, self.given.end, self._parameters())

    def compute_dtype(self) -> torch.dtype:
        """The real floating-point type of the module's first parameter, as it is computed with.

        Without parameters that of its first buffer on the path; raises `ValueError` for a module without either.
        """
        tensors = self.path.end.tensors
        for name in (*(name for name, _ in self.model.named_parameters()), *self.known):
            tensor = tensors[self.known[name]]
            if tensor.is_floating_point() or tensor.is_complex():
                dtype = self.dtype_of(name, tensor)
                return dtype.to_real() if dtype.is_complex else dtype
        raise ValueError(
            explain(
                expected="a model with parameters or floating-point buffers, which the path moves.",
                got=f"{type(self.model).__name__}, which has none.",
                hint="Give the model whose checkpoints these are.",
            )
        )

    def _parameters(self) -> list[str]:
        return [self.known[name] for name, _ in self.model.named_parameters()]

    def end_statistics(self) -> Params:
        """Running statistics of every batch-norm layer at the end of the path."""
        known = [name for name in self.running_statistics() if name in self.known]
        return {name: self.path.end.tensors[self.known[name]] for name in known}

    def running_statistics(self) -> list[str]:
        """Names of the running statistics of the batch-norm layers, also of those that keep none."""
        return [statistic(layer, which) for layer in self.batch_norms for which in ("mean", "var")]


def statistic(layer: str, which: str) -> str:
    """Name of a running statistic of the batch-norm layer of this name."""
    return f"{layer}.running_{which}" if layer else f"running_{which}"


def _device(model: nn.Module, path: ParamPath, device: torch.device | str | None) -> torch.device:
    """The asked device, else the module's, else (a module on `meta` is a mere plan) the path's."""
    if device is not None:
        return torch.device(device)
    tensors = [*model.parameters(), *path.start.tensors.values()]
    return next((tensor.device for tensor in tensors if tensor.device.type != "meta"), torch.device("cpu"))


def _is_plan(model: nn.Module) -> bool:
    """Whether a module, on the device `meta`, has no numbers and so no type of its own."""
    return all(tensor.is_meta for tensor in model.parameters())


def widest_type(model: nn.Module) -> torch.dtype | None:
    """The widest real floating-point type of a module's tensors, float32 for 8 bits; None for a mere plan."""
    widest = None
    if _is_plan(model):
        return None
    for tensor in (*model.parameters(), *model.buffers()):
        if continuous(tensor):
            dtype = tensor.dtype.to_real() if tensor.is_complex() else tensor.dtype
            dtype = torch.float32 if is_float8(tensor) else dtype
            widest = dtype if widest is None else torch.promote_types(widest, dtype)
    return widest


def _matched_names(model: nn.Module, path: ParamPath) -> tuple[dict[str, str], Params]:
    """The path's name for each of the module's tensors, and the tensors that only the module has."""
    expected: dict[str, Tensor] = dict(model.named_parameters()) | dict(model.named_buffers())
    persistent = model.state_dict(keep_vars=True)
    known: Mapping[str, Tensor] = path.end.tensors
    names, constant, missing, extra = _names_by(expected, persistent, {name: name for name in known})
    if missing or extra:
        names, constant, missing, extra = _names_by(expected, persistent, own_names(model, known))
        unsaved = unsaved_names(model).intersection(missing)
        constant |= {name: expected[name].detach() for name in unsaved}
        missing = [name for name in missing if name not in unsaved]
    for same in names.values():
        for side in (path.start, path.end):
            _check_tied(same, side.tensors, side.source)
    if missing or extra:
        parts = [f"{missing[:3]} missing from the checkpoints"] if missing else []
        parts += [f"{extra[:3]} unknown to the model"] if extra else []
        raise EndpointMismatch(
            explain(
                expected=f"checkpoints of {type(model).__name__}, with its {len(persistent)} names.",
                got=f"{' and '.join(parts)} ({len(missing)} and {len(extra)} in all).",
                hint=prefix_hint(known, persistent)
                or "Check that the model factory builds the network of the checkpoints. If a library's files have "
                "other names than its modules, load modules by it (from_pretrained) and pass those; "
                "ls.integrations.hugging_face does it for folders of transformers.",
            )
        )
    for name, (found_name, *_) in names.items():
        if known[found_name].shape != expected[name].shape:
            raise EndpointMismatch(
                explain(
                    expected=f"checkpoints that fit the model: {name!r} of shape {tuple(expected[name].shape)}.",
                    got=f"{tuple(known[found_name].shape)} in {path.end.source}.",
                    hint="Build the model with the sizes the checkpoints were trained with.",
                )
            )
    return {name: same[0] for name, same in names.items()}, constant


def _names_by(
    expected: Mapping[str, Tensor], persistent: Mapping[str, Tensor], known: Mapping[str, str]
) -> tuple[dict[str, list[str]], Params, list[str], list[str]]:
    """The path's names for each of the module's tensors, where `known` has the module's own name for each of them.

    Also the tensors that only the module has, those it misses on the path, and the path's that it does not know.
    """
    aliases = _aliases(persistent)
    taken, prefix = fitting_prefixes(known, persistent)
    names: dict[str, list[str]] = {}
    constant: Params = {}
    missing = []
    used = set()
    for name, tensor in expected.items():
        if name not in persistent and name not in known:
            constant[name] = tensor.detach()
            continue
        candidates = [taken + alias.removeprefix(prefix) for alias in aliases.get(name, [name])]
        present = [known[candidate] for candidate in candidates if candidate in known]
        used.update(present)
        if present:
            names[name] = present
        else:
            missing.append(name)
    return names, constant, missing, [name for name in known.values() if name not in used]


def _aliases(persistent: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """For each name, every name of the same tensor object (tied weights)."""
    groups: dict[int, list[str]] = {}
    for name, tensor in persistent.items():
        groups.setdefault(id(tensor), []).append(name)
    return {name: groups[id(tensor)] for name, tensor in persistent.items()}


def _check_tied(names: list[str], tensors: Params, source: str) -> None:
    for name in names[1:]:
        if tie_key(tensors[name]) != tie_key(tensors[names[0]]) and not torch.equal(tensors[name], tensors[names[0]]):
            raise EndpointMismatch(
                explain(
                    expected=f"equal values under {names[0]!r} and {name!r}, which the model ties.",
                    got=f"different values in {source}.",
                    hint="Build the model without tying, or check that the checkpoint is of this model.",
                )
            )
