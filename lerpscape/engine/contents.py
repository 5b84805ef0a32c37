"""What a model, a loss or a batch is made of, as digests by name, so that two of them can be told apart."""

from __future__ import annotations

import dis
import functools
import hashlib
import inspect
import os
import re
import site
import sys
import sysconfig
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lerpscape.networks.checksums import checksum, tensor_bytes
from lerpscape.paths.checkpoints import Checkpoint

ATOMS = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis))
# What every class or module of torch has, and does not tell it from another; torch.compile numbers its wrappers.
_MODULE_ATTRIBUTES = frozenset(vars(nn.Module())) | {"_torchdynamo_wrapper_id"}
_CLASS_ATTRIBUTES = frozenset(dir(type("Plain", (), {}))) - {"__init__", "__eq__", "__hash__", "__repr__"} | {
    "__annotations__",
    "__firstlineno__",
    "__static_attributes__",
    "__abstractmethods__",
    "_abc_impl",
    "__slotnames__",  # which copy and pickle leave there
    "__dataclass_fields__",  # the class attributes and __init__ say the same
    "__dataclass_params__",
}
_LIBRARIES = ("stdlib", "platstdlib", "purelib", "platlib")
_INSTALLED = tuple(
    f"{Path(folder).resolve()}{os.sep}"
    for folder in {sysconfig.get_path(each) for each in _LIBRARIES}
    | {*site.getsitepackages(), site.getusersitepackages()}
)
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class Contents:
    """Digests of everything that a value is made of, by name, in `parts`; they are the same in another process.

    * Numbers, texts, tensors and arrays: their values. Lists, mappings and sets: one digest for all.
    * Functions: bytecode, constants, defaults, the values of closures and of the globals that it names.
    * Objects: their class and their attributes. Methods, `functools.partial` and wrappers: what they hold.
    * Modules: their class, attributes, hooks and non-persistent buffers; with `tensors`, also all their other tensors.
    * Code of the standard library and of installed packages: its name alone.

    What can only be told by its type (a lock, an open file) is listed in `opaque`.

    >>> def scaled(factor):
    ...     return lambda z, y: factor * (z - y)
    >>> one, other = Contents(), Contents()
    >>> one.add("loss", scaled(1.0)), other.add("loss", scaled(2.0))
    (None, None)
    >>> [name for name in one.parts if one.parts[name] != other.parts[name]]
    ['loss.factor']
    """

    def __init__(self, *, tensors: bool = True) -> None:
        self.parts: dict[str, str] = {}
        self.opaque: list[str] = []
        self._tensors = tensors
        self._known: dict[int, tuple[Any, str]] = {}  # by id; the value is held so that no other one takes its id

    def add(self, name: str, value: Any) -> None:
        """Enter a value under a name."""
        self.parts |= self._of(name, value)

    def digest(self) -> str:
        """12 hex digits over all parts."""
        return _digest(repr(sorted(self.parts.items())))

    def _of(self, name: str, value: Any) -> dict[str, str]:
        if isinstance(value, ATOMS):
            return {name: _digest(f"{type(value).__name__} {value!r}")}
        if isinstance(value, Checkpoint):
            return {}  # a path's digest is over its tensors
        if id(value) in self._known:
            return {name: self._known[id(value)][1]}
        self._known[id(value)] = value, "a cycle"
        parts = dict(self._parts(name, value))
        self._known[id(value)] = value, _digest(repr(sorted((k.removeprefix(name), v) for k, v in parts.items())))
        return parts

    def _parts(self, name: str, value: Any) -> Iterator[tuple[str, str]]:
        """The digests of what a value is made of, by name."""
        if isinstance(value, (Tensor, np.ndarray)):
            yield name, self._array(name, value)
        elif isinstance(value, (list, tuple, set, frozenset, Mapping)) and not hasattr(value, "__dict__"):
            yield name, self._container(name, value)
        elif isinstance(value, weakref.ReferenceType):
            yield name, _digest("a weak reference")  # to what is held, and told, elsewhere
        elif isinstance(value, ModuleType):
            yield name, _digest(f"module {value.__name__}")
        elif isinstance(value, type):
            yield from self._class(name, value)
        elif isinstance(value, CodeType):
            yield name, self._code(name, value)
        elif isinstance(value, FunctionType):
            yield from self._function(name, value)
        elif isinstance(value, functools.partial):
            yield from self._all(name, {"function": value.func, "args": value.args, "keywords": value.keywords})
        elif isinstance(value, MethodType):
            yield from self._all(name, {"function": value.__func__, "self": value.__self__})
        elif isinstance(value, (staticmethod, classmethod, property)):
            held = {"get": value.fget, "set": value.fset} if isinstance(value, property) else {"of": value.__func__}
            yield from self._all(name, held)
        elif isinstance(value, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
            yield name, _digest(str(value.code))
        elif isinstance(value, nn.Module):
            yield from self._module(name, value)
        elif callable(getattr(value, "__wrapped__", None)):
            yield from self._of(name, value.__wrapped__).items()
        elif inspect.isbuiltin(value):
            owner = value.__self__
            yield name, _digest(f"builtin {getattr(value, '__module__', '')}.{value.__qualname__}")
            if owner is not None and not isinstance(owner, (ModuleType, type)):
                yield from self._of(f"{name}.__self__", owner).items()
        else:
            yield from self._object(name, value)

    def _all(self, name: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        for key, value in values.items():
            yield from self._of(f"{name}.{key}", value).items()

    def _together(self, name: str, value: Any) -> str:
        """One digest for all parts of a value."""
        return _digest(repr(sorted((part.removeprefix(name), each) for part, each in self._of(name, value).items())))

    def _array(self, name: str, value: Tensor | np.ndarray[Any, Any]) -> str:
        head = f"{type(value).__name__} {value.dtype} {tuple(value.shape)} "
        if isinstance(value, np.ndarray):
            if value.dtype.hasobject:
                return _digest(head + self._together(name, value.tolist()))
            return _digest(head + checksum(np.ascontiguousarray(value).tobytes()).hex())
        try:
            return _digest(head + checksum(tensor_bytes(value)).hex())
        except (RuntimeError, NotImplementedError, TypeError):  # sparse, quantised or on no device
            return self._untold(name, value)

    def _container(self, name: str, value: Any) -> str:
        if isinstance(value, Mapping):
            pairs = enumerate(value.items())
            items = [
                self._together(f"{name}[{i}]", key) + self._together(f"{name}[{key!r}]", v) for i, (key, v) in pairs
            ]
        else:
            items = [self._together(f"{name}[{index}]", item) for index, item in enumerate(value)]
        if isinstance(value, (set, frozenset)):
            items.sort()
        return _digest(f"{type(value).__name__} {items}")

    def _class(self, name: str, value: type) -> Iterator[tuple[str, str]]:
        yield name, _digest(f"class {value.__module__}.{value.__qualname__}")
        for base in value.__mro__:
            if not _installed(base.__module__):
                own = {key: each for key, each in vars(base).items() if key not in _CLASS_ATTRIBUTES}
                yield from self._all(name, {key: each for key, each in own.items() if not _is_slot(each)})

    def _code(self, name: str, code: CodeType) -> str:
        constants = [self._together(name, constant) for constant in code.co_consts]
        return _digest(f"{code.co_code.hex()} {code.co_names} {constants}")

    def _function(self, name: str, function: FunctionType) -> Iterator[tuple[str, str]]:
        held: dict[str, Any] = {"defaults": function.__defaults__, "keyword defaults": function.__kwdefaults__}
        for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                held[variable] = cell.cell_contents
            except ValueError:  # not assigned yet
                held[variable] = None
        if _installed(function.__module__):
            yield name, _digest(f"function {function.__module__}.{function.__qualname__}")
        else:
            held["code"] = function.__code__
            read, names = _names(function.__code__)
            for each in sorted(read & function.__globals__.keys()):
                held[each] = found = function.__globals__[each]
                if isinstance(found, ModuleType) and not _installed(found.__name__):
                    held |= {f"{each}.{of}": getattr(found, of) for of in sorted(names) if hasattr(found, of)}
        yield from self._all(name, held)

    def _module(self, name: str, module: nn.Module) -> Iterator[tuple[str, str]]:
        own = {key: value for key, value in vars(module).items() if key not in _MODULE_ATTRIBUTES}
        own |= {
            key: list(vars(module)[key].values())
            for key in _MODULE_ATTRIBUTES
            if key.endswith("hooks") and vars(module)[key]
        }
        tensors = dict(module._buffers) | dict(module._parameters)
        held = {
            key: tensor for key, tensor in tensors.items() if self._tensors or key in module._non_persistent_buffers_set
        }
        yield from self._of(f"{name}.__class__", type(module)).items()
        yield from self._all(name, own | held | dict(module._modules))

    def _object(self, name: str, value: Any) -> Iterator[tuple[str, str]]:
        kind = type(value)
        slots = [slot for base in kind.__mro__ for slot in _slots(base) if hasattr(value, slot)]
        attributes = {key: each for key, each in getattr(value, "__dict__", {}).items() if not _is_cached(kind, key)}
        attributes |= {slot: getattr(value, slot) for slot in slots}
        if isinstance(value, (list, tuple, set, frozenset, Mapping)):
            yield f"{name}[]", self._container(name, value)
        elif not attributes or kind.__module__.startswith("torch._"):
            yield (
                name,
                self._untold(name, value)
                if _ADDRESS.search(repr(value))
                else _digest(f"{kind.__qualname__} {value!r}"),
            )
            if _installed(kind.__module__):
                return
        yield from self._of(f"{name}.__class__", kind).items()
        yield from self._all(name, attributes)

    def _untold(self, name: str, value: Any) -> str:
        self.opaque.append(f"{name}, a {type(value).__name__}")
        return _digest(type(value).__qualname__)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]


def _names(code: CodeType) -> tuple[set[str], set[str]]:
    """The globals that a function reads, and all names in its code, attributes too; with the functions inside it."""
    read = {each.argval for each in dis.get_instructions(code) if each.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inner_read, inner_names = _names(constant)
            read, names = read | inner_read, names | inner_names
    return read, names


@functools.cache
def _installed(module: str | None) -> bool:
    """Whether a module belongs to the standard library, an installed package or this one."""
    root = (module or "builtins").partition(".")[0]
    if root in sys.stdlib_module_names - {"__main__"} or root == "lerpscape":
        return True
    file = getattr(sys.modules.get(module or ""), "__file__", None)
    return file is not None and str(Path(file).resolve()).startswith(_INSTALLED)


def _slots(kind: type) -> list[str]:
    slots = kind.__dict__.get("__slots__", ())
    return [slots] if isinstance(slots, str) else [each for each in slots if each not in ("__dict__", "__weakref__")]


def _is_slot(value: Any) -> bool:
    return inspect.ismemberdescriptor(value) or inspect.isgetsetdescriptor(value)


def _is_cached(kind: type, name: str) -> bool:
    """Whether an attribute is what a `cached_property` keeps, which follows from the others."""
    return isinstance(inspect.getattr_static(kind, name, None), functools.cached_property)
