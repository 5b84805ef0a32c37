"""Plain data out of a pickle, without unpickling it.

A pickle is a program for a machine with a stack, and its instructions can call any function of any module. This reads
the instructions that CIFAR's official files are written in (numbers, strings, lists, dicts, arrays of bytes), as data:
nothing is imported and nothing is called. Names are compared with the three that a numpy array is written with.
"""

from __future__ import annotations

import math
import pickletools
import warnings
from dataclasses import dataclass
from typing import Any

from lerpscape.errors import three_parts

RECONSTRUCT = "numpy.core.multiarray _reconstruct"
ARRAY = "numpy ndarray"
DTYPE = "numpy dtype"
NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1")
TEXTS = ("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE")
VALUES = frozenset((*NUMBERS, *TEXTS, "BINBYTES", "SHORT_BINBYTES"))
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
PUT = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))
GET = frozenset(("GET", "BINGET", "LONG_BINGET"))


@dataclass
class Bytes:
    """An array of unsigned bytes as a pickle describes it: its shape and its values in order of rows."""

    shape: tuple[int, ...] = ()
    values: bytes = b""


@dataclass(frozen=True)
class _Name:
    name: str


@dataclass(frozen=True)
class _UnsignedByte:
    """The one type of array allowed."""


def parse_pickle(content: bytes, name: str) -> Any:
    """The object that a pickle of plain data describes; arrays of bytes come as `Bytes`, Python 2 strings as str.

    Raises `ValueError` for anything else in it, with the place: a name that is not numpy's array, a call, a persistent
    or registered object, a damaged or cut-off file.

    >>> import pickle
    >>> parse_pickle(pickle.dumps({"labels": [3, 1]}, protocol=2), "batch")
    {'labels': [3, 1]}
    >>> try:
    ...     parse_pickle(pickle.dumps(len, protocol=2), "batch")
    ... except ValueError as error:
    ...     print(str(error).splitlines()[1])
    got: the name '__builtin__ len' (at byte 2).
    """
    position = 0
    machine = _Machine()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an escape that Python never writes is damage
            for instruction, argument, place in pickletools.genops(content):
                position = place or 0
                machine.run(instruction.name, argument)
        return machine.result()
    except _Refused as refused:
        raise ValueError(
            three_parts(
                f"{name} to be a pickle of numbers, strings, lists, dicts and arrays of bytes.",
                f"{refused} (at byte {position}).",
                "Do not trust this file: nothing in it was run. Get the official one.",
            )
        ) from None
    except (ValueError, LookupError, TypeError, Warning) as error:
        raise ValueError(
            three_parts(
                f"{name} to be a whole pickle.",
                f"a damaged or cut-off one, after byte {position} ({error}).",
                "Get the file again.",
            )
        ) from error


class _Refused(Exception):
    """An instruction or a name that plain data do not need."""


class _Machine:
    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def result(self) -> Any:
        if len(self._stack) != 1 or self._marks:
            raise ValueError("no single object at its end")
        return self._stack[0]

    def run(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in VALUES:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in EMPTY:
            stack.append(EMPTY[name]())
        elif name in SHORT_TUPLES:
            stack.append(tuple(self._top(SHORT_TUPLES[name])))
        elif name in PUT:
            self._memo[argument] = stack[-1]
        elif name in GET:
            stack.append(self._memo[argument])
        elif name in ("MEMOIZE", "MARK", "TUPLE", "LIST", "DICT", "APPEND", "APPENDS", "SETITEM", "SETITEMS"):
            self._build_container(name)
        elif name in ("GLOBAL", "REDUCE", "BUILD"):
            self._build_array(name, argument)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise _Refused(f"the instruction {name}")

    def _build_container(self, name: str) -> None:
        stack = self._stack
        if name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name == "MARK":
            self._marks.append(len(stack))
        elif name in ("APPEND", "APPENDS"):
            items = self._top(1) if name == "APPEND" else self._marked()
            self._target(list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._top(2) if name == "SETITEM" else self._marked()
            self._target(dict).update(_pairs(items))
        else:
            items = self._marked()
            stack.append(tuple(items) if name == "TUPLE" else items if name == "LIST" else dict(_pairs(items)))

    def _build_array(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name == "GLOBAL":
            if argument not in (RECONSTRUCT, ARRAY, DTYPE):
                raise _Refused(f"the name {argument!r}")
            stack.append(_Name(argument))
        elif name == "REDUCE":
            called, arguments = self._top(2)
            if called == _Name(RECONSTRUCT) and isinstance(arguments, tuple) and arguments[:1] == (_Name(ARRAY),):
                stack.append(Bytes())
            elif called == _Name(DTYPE) and isinstance(arguments, tuple) and arguments[:1] == ("u1",):
                stack.append(_UnsignedByte())
            else:
                made_of = called.name if isinstance(called, _Name) else type(called).__name__
                raise _Refused(f"a call of {made_of!r}")
        else:  # BUILD: the state of what was made last
            (state,) = self._top(1)
            if isinstance(stack[-1], Bytes):
                stack[-1].shape, stack[-1].values = _array_state(state)
            elif not isinstance(stack[-1], _UnsignedByte):
                raise _Refused(f"the state of {type(stack[-1]).__name__}")

    def _target(self, kind: type) -> Any:
        if not isinstance(self._stack[-1], kind):
            raise ValueError(f"items for {type(self._stack[-1]).__name__}")
        return self._stack[-1]

    def _top(self, count: int) -> list[Any]:
        if len(self._stack) - (self._marks[-1] if self._marks else 0) < count:
            raise ValueError("too few objects")
        items = self._stack[-count:]
        del self._stack[-count:]
        return items

    def _marked(self) -> list[Any]:
        first = self._marks.pop()
        items = self._stack[first:]
        del self._stack[first:]
        return items


def _pairs(items: list[Any]) -> list[tuple[Any, Any]]:
    if len(items) % 2:
        raise ValueError("a key without a value")
    for key in items[::2]:
        if not isinstance(key, (str, bytes, int)):
            raise _Refused(f"a {type(key).__name__} as key")
    return list(zip(items[::2], items[1::2], strict=True))


def _array_state(state: Any) -> tuple[tuple[int, ...], bytes]:
    """Shape and values from (version, shape, type, in order of columns?, values)."""
    if not (isinstance(state, tuple) and len(state) == 5 and isinstance(state[2], _UnsignedByte)):
        raise _Refused("an array of something else than unsigned bytes")
    _, shape, _, by_columns, values = state
    if by_columns:
        raise _Refused("an array in order of columns")
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("an array without a shape")
    held = values.encode("latin-1") if isinstance(values, str) else values  # Python 2 wrote bytes as strings
    if not isinstance(held, bytes) or len(held) != math.prod(shape):
        raise ValueError(f"an array of shape {shape} with other values than that")
    return shape, held
