"""Lending tensors to a module: called with other tensors than its own, it keeps neither them nor anything it does.

`torch.func.functional_call` swaps tensors name by name, so a module under two names ends with tensors that were lent,
and what a forward leaves in attributes, hooks and modes stays. Here every dictionary and list that the module holds is
copied before and put back after, so that every object in it is the very one that was there.
"""

from __future__ import annotations

import copy
import operator
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lerpscape.base.errors import explain

# What a module holds other objects in; restored in place, for hooks and optimisers refer to these very objects.
_Container: TypeAlias = "dict[Any, Any] | list[Any] | set[Any] | deque[Any]"
_CONTAINERS = (dict, list, set, deque)


class Held:
    """Everything that a module holds: its containers, and the tensors, arrays and generators in them.

    Modules, dictionaries, lists, sets and tuples are followed however deep they lie, other objects one level deep.
    """

    def __init__(self, model: nn.Module) -> None:
        self.containers: list[tuple[str, _Container]] = []
        self.places: list[tuple[Any, Any, Any]] = []  # (container, key, a value with tensors or arrays)
        self._generators: list[Any] = []
        self._seen: set[int] = set()
        self._visit(model, type(model).__name__, within=False)

    def _visit(self, value: Any, label: str, *, within: bool) -> None:
        if isinstance(value, (Tensor, str, bytes, int, float, type(None), type)) or id(value) in self._seen:
            return
        self._seen.add(id(value))
        if isinstance(value, (torch.Generator, np.random.Generator, random.Random)):
            self._generators.append(value)
        elif isinstance(value, nn.Module):
            self._visit(vars(value), label, within=False)
        elif isinstance(value, _CONTAINERS):
            self.containers.append((label, value))
            items = value.items() if isinstance(value, dict) else enumerate(value)
            for key, each in list(items):
                if not isinstance(value, set) and _has_tensors(each):
                    self.places.append((value, key, each))
                self._visit(each, f"{label}.{key}", within=within)
        elif isinstance(value, tuple):
            for each in value:
                self._visit(each, label, within=within)
        elif not within and _is_plain_object(value):
            self._visit(vars(value), label, within=True)

    def copies(self) -> list[Any]:
        """A shallow copy of every container, in order; then the states of the generators."""
        return [each.copy() for _, each in self.containers] + [_state(each) for each in self._generators]

    def differs(self, copies: list[Any]) -> str:
        """Where a container's contents first differ from these copies; "" where they do not."""
        pairs = zip(self.containers, copies, strict=False)
        return next((label for (label, container), before in pairs if not _same(container, before)), "")

    def restore(self, copies: list[Any]) -> str:
        """Put every container's contents and every generator's state back; where the first change was, if any."""
        changed = ""
        for (label, container), before in zip(self.containers, copies, strict=False):
            if not _same(container, before):
                changed = changed or label
                container.clear()
                container.extend(before) if isinstance(container, (list, deque)) else container.update(before)
        for generator, state in zip(self._generators, copies[len(self.containers) :], strict=True):
            _set_state(generator, state)
        return changed


@contextmanager
def kept(model: nn.Module) -> Iterator[None]:
    """Whatever a module holds is the same afterwards, object by object, its modes and hooks included."""
    held = Held(model)
    copies = held.copies()
    try:
        yield
    finally:
        try:
            held.restore(copies)
        except BaseException:  # a second interrupt, in the middle of it
            held.restore(copies)
            raise


class Lender:
    """Lends tensors to one module, call after call; each begins from the module as it is now.

    Tensors that the module holds elsewhere, in attributes and lists, follow those that they are or are a view of;
    others are copied, so that a forward may write to them. Modules that do more in `train()` than to set modes, such
    as those that merge weights, are switched to evaluation after the tensors are lent: they merge what was lent.

    `changed` says where the module differed after the last loan, other than by what was lent; it is empty for most.

    Raises `TypeError` for a module compiled by TorchScript, which takes no other tensors, and for one that holds a
    view of its weights that cannot follow them.

    >>> model = nn.Linear(1, 1)
    >>> own = model.weight
    >>> with Lender(model).lend({"weight": torch.full((1, 1), 3.0), "bias": torch.zeros(1)}):
    ...     print(float(model(torch.ones(1, 1))))
    3.0
    >>> model.weight is own
    True
    """

    def __init__(self, model: nn.Module) -> None:
        if any(isinstance(each, torch.jit.ScriptModule) for each in model.modules()):
            raise TypeError(
                explain(
                    expected="a module whose tensors can be replaced.",
                    got=f"{type(model).__name__} with a part compiled by TorchScript.",
                    hint="Measure the Python module that was compiled, with this one's state dict as a checkpoint.",
                )
            )
        lazy = next((name for name, p in model.named_parameters() if is_lazy(p)), None)
        if lazy is not None:
            raise ValueError(
                explain(
                    expected="a module whose parameters have shapes.",
                    got=f"{lazy!r} of {type(model).__name__}, which is not initialised yet.",
                    hint="Call the module once with a batch.",
                )
            )
        self._model = model
        self._held = Held(model)
        named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        self._ids = {name: id(tensor) for name, tensor in named}
        self._owned = {id(tensor): tensor for _, tensor in named}
        self._by_storage = {storage: tensor for _, tensor in named if (storage := _storage(tensor)) is not None}
        self.changed = ""
        self.acts_on_mode = self._acts_on_mode()

    @property
    def names(self) -> set[str]:
        """All names of the module's parameters and buffers."""
        return set(self._ids)

    @property
    def holds_views(self) -> bool:
        """Whether an attribute lies in the memory of a parameter or buffer and is another tensor."""
        held = (value for _, _, value in self._held.places if isinstance(value, Tensor))
        return any(id(value) not in self._owned and self.follows(value) for value in held)

    def follows(self, value: Tensor) -> bool:
        """Whether this tensor shares memory with a parameter or buffer."""
        return _storage(value) in self._by_storage

    def watch(self) -> Callable[[], str]:
        """For use inside a loan: a function that says where the module is not as it is now, "" where it is."""
        return partial(self._held.differs, self._held.copies())

    @contextmanager
    def lend(self, tensors: Mapping[str, Tensor]) -> Iterator[None]:
        """The module holds these tensors while inside, by any of their names, each in all its places."""
        with self._lent(tensors):
            if self.acts_on_mode:
                self._model.eval()
            yield

    @contextmanager
    def _lent(self, tensors: Mapping[str, Tensor]) -> Iterator[None]:
        copies = self._held.copies()
        lent = {self._ids[name]: tensor for name, tensor in tensors.items()}
        versions = [(tensor, tensor._version) for tensor in tensors.values() if not tensor.is_inference()]
        places = [(container, key, value, self._stand_in(value, lent)) for container, key, value in self._held.places]
        try:
            for container, key, _, stand_in in places:
                container[key] = stand_in
            yield
        finally:
            for container, key, value, stand_in in places:
                if _at(container, key) is stand_in:
                    container[key] = value
            self.changed = self._held.restore(copies)
            if not self.changed and any(tensor._version != version for tensor, version in versions):
                self.changed = f"a tensor of {type(self._model).__name__}"

    def _stand_in(self, value: Any, lent: dict[int, Tensor]) -> Any:
        """What takes the place of a value: the tensor lent for it, a view of that one, or a copy."""
        if isinstance(value, tuple):
            parts = [self._stand_in(each, lent) for each in value]
            return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
        if isinstance(value, np.ndarray):
            return value.copy()
        if not isinstance(value, Tensor):
            return value
        if id(value) not in lent:
            lent[id(value)] = self._view(value, lent)
        return lent[id(value)]

    def _view(self, value: Tensor, lent: dict[int, Tensor]) -> Tensor:
        storage = _storage(value)
        base = None if storage is None else self._by_storage.get(storage)
        if id(value) in self._owned or base is None or id(base) not in lent:
            return value.detach().clone()
        whole = lent[id(base)]
        if value.shape == base.shape and value.stride() == base.stride() and value.dtype == base.dtype:
            return whole
        if whole.stride() == base.stride() and value.dtype == base.dtype:
            return whole.as_strided(value.shape, value.stride(), value.storage_offset() - base.storage_offset())
        raise TypeError(
            explain(
                expected="attributes that are no part of the module's weights in another layout or type.",
                got=f"a view of shape {tuple(value.shape)} into a tensor of shape {tuple(base.shape)}.",
                hint="Compute it in forward from the weights.",
            )
        )

    def _acts_on_mode(self) -> bool:
        """Whether switching to evaluation does more than to set modes, as tried on copies."""
        plain = (nn.Module.train, nn.Module.eval)
        modules = list(self._model.modules())
        if all((type(each).train, type(each).eval) == plain and "train" not in vars(each) for each in modules):
            return False
        tensors = {name: self._owned[key].detach().clone() for name, key in self._ids.items()}
        before = {name: tensor.clone() for name, tensor in tensors.items()}
        modes = [(each, each.training) for each in modules]
        with self._lent(tensors):
            self._model.eval()
            for each, mode in modes:
                each.training = mode
        written = any(not torch.equal(before[name], tensor) for name, tensor in tensors.items())
        return bool(self.changed) or written


def independent(model: nn.Module, sharing: Iterable[Tensor] = ()) -> nn.Module:
    """A deep copy of a module, also of one that holds tensors computed by an earlier call; it may share some.

    >>> model = nn.Linear(1, 1)
    >>> model.last = model(torch.ones(1))  # torch refuses to copy it
    >>> independent(model).last.requires_grad
    False
    """
    computed = [value for _, _, value in Held(model).places if isinstance(value, Tensor) and not value.is_leaf]
    memo: dict[int, Any] = {id(tensor): tensor.detach().clone() for tensor in computed}
    return copy.deepcopy(model, memo | {id(tensor): tensor for tensor in sharing})


def _has_tensors(value: Any) -> bool:
    return isinstance(value, (Tensor, np.ndarray)) or (isinstance(value, tuple) and any(map(_has_tensors, value)))


def _is_plain_object(value: Any) -> bool:
    """Whether this is an object of somebody's class, and no function, module of Python or part of torch."""
    return type(getattr(value, "__dict__", None)) is dict and not (
        callable(value) or type(value).__module__.partition(".")[0] in ("torch", "builtins")
    )


def _same(container: Any, copy: Any) -> bool:
    if len(container) != len(copy):
        return False
    if isinstance(container, dict):
        return all(map(operator.is_, container, copy)) and all(map(operator.is_, container.values(), copy.values()))
    return container == copy if isinstance(container, set) else all(map(operator.is_, container, copy))


def _at(container: Any, key: Any) -> Any:
    try:
        return container[key]
    except LookupError:
        return None


def _storage(tensor: Tensor) -> int | None:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # a subclass of tensors that has none
        return None


def _state(generator: Any) -> Any:
    if isinstance(generator, random.Random):
        return generator.getstate()
    return generator.get_state() if isinstance(generator, torch.Generator) else generator.bit_generator.state


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, random.Random):
        generator.setstate(state)
    elif isinstance(generator, torch.Generator):
        generator.set_state(state)
    else:
        generator.bit_generator.state = state
