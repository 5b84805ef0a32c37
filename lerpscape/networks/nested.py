"""Walking, copying and hashing what a batch may be made of: tensors and arrays in containers and objects of any class.

An object is taken apart as `copy.deepcopy` does it, by `__reduce_ex__`: attributes, slots, fields and items, nothing is
pickled. A part that cannot be taken apart (a lock, a handle of a C library) is opaque: it is passed on as it is.
"""

from __future__ import annotations

import copy
import copyreg
import enum
import types
from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from lerpscape.networks.checksums import strided_parts, tensor_bytes

Leaf: TypeAlias = Tensor | np.ndarray[Any, Any]

# torch allocates memory at multiples of so many bytes.
ALIGNED = 64

# Values without parts, told apart by their `repr`.
_PLAIN = (type(None), bool, int, float, complex, str, bytes, np.generic, torch.dtype, torch.device, torch.Size)
_PLAIN_TYPES = frozenset((*_PLAIN, range, slice, type(...)))
_CONTAINERS = frozenset((dict, list, tuple, set, frozenset))


class Opaque:
    """Stands in a walk for a part that cannot be taken apart."""

    def __init__(self, part: Any) -> None:
        self.part = part


def walk(value: Any) -> Iterator[Leaf | Opaque | str]:
    """The parts of a nested value, in order: its tensors and arrays, opaque parts, and words for everything else.

    Two values with the same walk have the same structure and content.

    >>> list(walk({"a": [torch.zeros(1), 2.5]}))
    ['dict 1', "'a'", 'list 2', tensor([0.]), '2.5']
    """
    yield from _walk(value, ())


def _walk(value: Any, around: tuple[int, ...]) -> Iterator[Leaf | Opaque | str]:
    kind = type(value)
    if isinstance(value, Tensor) or (kind is np.ndarray and not value.dtype.hasobject):
        yield value
        return
    if kind in _PLAIN_TYPES or isinstance(value, np.generic):
        yield repr(value)
        return
    if isinstance(value, enum.Enum | type):
        yield _name(value if isinstance(value, type) else kind) + f" {getattr(value, 'name', '')}"
        return
    if id(value) in around:  # an object that refers to one that holds it
        yield f"{len(around) - around.index(id(value))} up"
        return
    around = (*around, id(value))
    if kind in _CONTAINERS:
        yield f"{kind.__name__} {len(value)}"
        parts = value.items() if kind is dict else value
        for part in sorted(parts, key=repr) if kind in (set, frozenset) else parts:
            for each in part if kind is dict else (part,):
                yield from _walk(each, around)
        return
    state = _taken_apart(value)
    if state is None:
        yield Opaque(value)
        return
    yield _name(kind)
    yield from _walk(state, around)


def _taken_apart(value: Any) -> Any:
    """What an object is made of; None where it cannot be told."""
    if isinstance(value, types.FunctionType | types.BuiltinFunctionType | types.MethodType | types.ModuleType):
        return None
    if type(value) is np.ndarray:
        return [value.shape, value.ravel().tolist()]
    try:
        reduce = copyreg.dispatch_table.get(type(value))
        parts = reduce(value) if reduce is not None else value.__reduce_ex__(4)
    except Exception:  # whatever a foreign class raises where it cannot be copied
        return None
    if isinstance(parts, str):
        return [parts]
    make, arguments, *rest = parts
    made_of = [_name(make), arguments]
    for part in rest[:3]:  # the state, the items of a list, the items of a mapping
        made_of.append(list(part) if isinstance(part, Iterator) else part)
    return made_of


def _name(kind: Any) -> str:
    return f"{getattr(kind, '__module__', '')}.{getattr(kind, '__qualname__', type(kind).__name__)}"


def leaves(value: Any) -> Iterator[Leaf]:
    """The tensors and arrays of a nested value, in order.

    >>> [tuple(leaf.shape) for leaf in leaves((torch.zeros(2), {"mask": [torch.zeros(3)]}))]
    [(2,), (3,)]
    """
    if isinstance(value, Tensor):
        yield value
        return
    for part in walk(value):
        if isinstance(part, Tensor | np.ndarray):
            yield part


def opaque_part(value: Any) -> str | None:
    """The name of the type of the first part that cannot be taken apart, if there is one.

    >>> import threading
    >>> opaque_part([threading.Lock()]), opaque_part([torch.zeros(1)])
    ('_thread.lock', None)
    """
    return next((_name(type(part.part)) for part in walk(value) if isinstance(part, Opaque)), None)


def is_object(value: Any) -> bool:
    """Whether a value is of a class of its own: neither a leaf, nor a plain container of Python."""
    return not isinstance(value, Tensor) and type(value) not in (np.ndarray, dict, list, tuple, *_PLAIN_TYPES)


def mapped(value: Any, function: Callable[[Leaf], Leaf], of_object: Callable[[Any], Any] | None = None) -> Any:
    """A copy of a nested value with a function applied to every tensor and array; opaque parts are the same.

    `of_object` is applied to objects as wholes instead.

    >>> mapped({"a": (torch.ones(1), "word")}, lambda leaf: leaf + 1)
    {'a': (tensor([2.]), 'word')}
    """
    if isinstance(value, Tensor):
        return function(value)
    kind = type(value)
    if kind in _PLAIN_TYPES:
        return value
    if kind is dict:
        return {key: mapped(part, function, of_object) for key, part in value.items()}
    if kind in (tuple, list):
        return kind(mapped(part, function, of_object) for part in value)
    if of_object is not None and is_object(value):
        return of_object(value)
    parts = [part for part in walk(value) if not isinstance(part, str)]  # holds them, as `memo` knows them by id
    memo: dict[int, Any] = {}
    for part in parts:
        if isinstance(part, Opaque):
            memo[id(part.part)] = part.part
        elif id(part) not in memo:
            memo[id(part)] = function(part)
    return copy.deepcopy(value, memo)


def cloned(leaf: Leaf) -> Leaf:
    """A tensor or an array in memory of its own; a tensor that asks for gradients still does.

    A dense tensor lies in its memory as the given one does: kernels round otherwise in another order or alignment.

    >>> cloned(torch.ones(1, requires_grad=True))
    tensor([1.], requires_grad=True)
    """
    if isinstance(leaf, np.ndarray):
        return leaf.copy()
    copy = leaf.detach().clone()
    if type(leaf) is Tensor and lie_alike(copy, leaf) and leaf.device.type == "cpu" and leaf.data_ptr() % ALIGNED:
        shift = leaf.data_ptr() % ALIGNED // leaf.element_size()
        memory = torch.empty(leaf.numel() + shift, dtype=leaf.dtype)
        copy = memory.as_strided(leaf.shape, leaf.stride(), shift).copy_(copy)
    return copy.requires_grad_() if leaf.requires_grad else copy


def lie_alike(one: Leaf, other: Leaf) -> bool:
    """Whether the elements of two tensors of one shape have the same order and distances in memory.

    >>> lie_alike(torch.ones(2, 3), torch.ones(3, 2).T), lie_alike(torch.ones(2, 3), torch.ones(2, 3))
    (False, True)
    """
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return True
    strided = one.layout is other.layout is torch.strided and not one.is_nested
    return not strided or one.stride() == other.stride()


def state(leaf: Leaf) -> tuple[int, bool]:
    """What torch changes in a tensor that is written to, or made to ask for gradients.

    >>> values = torch.ones(1)
    >>> state(values), state(values.mul_(2))
    ((0, False), (1, False))
    """
    if isinstance(leaf, np.ndarray) or leaf.is_inference():
        return 0, False
    return leaf._version, leaf.requires_grad


def same_bits(one: Leaf, other: Leaf) -> bool:
    """Whether two tensors or arrays are the same, bit for bit.

    >>> same_bits(torch.tensor([float("nan")]), torch.tensor([float("nan")])), same_bits(torch.ones(1), np.ones(1))
    (True, False)
    """
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return isinstance(one, np.ndarray) and one.tobytes() == np.asarray(other).tobytes()
    strided = one.layout is torch.strided and one.shape == other.shape
    if strided and (one.is_meta or torch.equal(one, other)):  # nothing on `meta` has values
        return True
    pairs = zip_longest(strided_parts(one), strided_parts(other), fillvalue=torch.empty(0))
    return all(a.dtype == b.dtype and tensor_bytes(a) == tensor_bytes(b) for a, b in pairs)


def byte_count(leaf: Leaf) -> int:
    """Size of a tensor or an array in bytes.

    >>> byte_count(torch.zeros(3)), byte_count(np.zeros(3))
    (12, 24)
    """
    if isinstance(leaf, np.ndarray):
        return leaf.nbytes
    return sum(part.numel() * part.element_size() for part in strided_parts(leaf))
