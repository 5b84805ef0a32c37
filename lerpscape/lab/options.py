"""Type checks of configuration values against dataclass fields, and of options against function signatures."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

import numpy as np

from lerpscape.base.errors import ConfigError, explain
from lerpscape.base.names import unknown_name

Size: TypeAlias = Annotated[int, "≥ 1"]
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def check_options(
    name: str, function: Callable[..., Any], options: Mapping[str, Any], given: Collection[str] = ()
) -> None:
    """Check options against the keyword arguments of a function: names, required ones, and annotated types.

    `name` is the function's name in messages, `given` are arguments that are not options. The types checked are bool,
    int, float, str, `Size`, sequences, Literal and unions of these; an argument of another type takes any value.

    Raises `ConfigError` for an unknown option (suggesting the nearest), a missing one, and a value of the wrong type.

    >>> def factory(inputs, *, depth: int = 2): ...
    >>> check_options("mine", factory, {"dept": 3}, given=["inputs"])
    Traceback (most recent call last):
    lerpscape.base.errors.ConfigError: expected: option of 'mine': one of depth.
    got: 'dept'.
    try: Did you mean 'depth'?
    """
    parameters = inspect.signature(function).parameters
    known = {key: p for key, p in parameters.items() if key not in given and p.kind not in _VARIADIC}
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError:  # an annotation that is imported under TYPE_CHECKING only
        hints = {}
    for option, value in options.items():
        if option not in known and not takes_any:
            raise ConfigError(unknown_name(f"option of {name!r}", option, known))
        typed(value, hints.get(option, Any), f"{option} of {name!r}")
    for option, parameter in known.items():
        if parameter.default is parameter.empty and option not in options:
            raise ConfigError(
                explain(
                    expected=f"{_words(hints.get(option, Any))} for {option} of {name!r}.",
                    got="nothing.",
                    hint="It has no default: give a value.",
                )
            )


def typed(value: Any, hint: Any, place: str) -> Any:
    """Convert a TOML value to a type: 1 to 1.0 for a float, a list to a tuple; True is not a number.

    Raises `ConfigError`, which names the type that `place` takes, for a value that does not fit.

    >>> typed([1, 2], tuple[float, ...], "here")
    (1.0, 2.0)
    """
    converted = _converted(value, hint)
    if converted is _MISFIT:
        got = f"{value!r} ({type(value).__name__})."
        raise ConfigError(explain(expected=f"{_words(hint)} for {place}.", got=got, hint="Correct the value."))
    return converted


_MISFIT = object()


def _converted(value: Any, hint: Any) -> Any:
    """The value converted to the type, or _MISFIT."""
    origin, inside = get_origin(hint), get_args(hint)
    if hint == Size:
        return value if type(value) is int and value >= 1 else _MISFIT
    if origin in (Union, types.UnionType):
        return next((new for option in inside if (new := _converted(value, option)) is not _MISFIT), _MISFIT)
    if origin is Literal:
        return next((one for one in inside if one == value and type(one) is type(value)), _MISFIT)
    if hint in (np.ndarray, Callable) or origin in (np.ndarray, Callable):
        return value if isinstance(value, np.ndarray) or callable(value) else _MISFIT
    if origin is Mapping:
        return value if isinstance(value, Mapping) else _MISFIT
    if origin in (tuple, Sequence):
        if not isinstance(value, (list, tuple)):
            return _MISFIT
        hints = inside if _fixed_length(hint) else inside[:1] * len(value)
        parts = [_converted(part, option) for part, option in zip(value, hints, strict=False)]
        return tuple(parts) if len(value) == len(hints) and _MISFIT not in parts else _MISFIT
    if hint is float and type(value) is int:
        return float(value)
    return value if type(value) is hint or hint not in (bool, int, float, str, types.NoneType) else _MISFIT


def _fixed_length(hint: Any) -> bool:
    """Whether a type has a fixed number of values: true for `tuple[float, float]`, false for `tuple[float, ...]`."""
    return get_origin(hint) is tuple and get_args(hint)[-1] is not Ellipsis


def _words(hint: Any) -> str:
    """A type in plain words, for messages."""
    origin, inside = get_origin(hint), get_args(hint)
    if hint == Size:
        return "a whole number ≥ 1"
    if origin in (Union, types.UnionType):
        # What a file cannot hold, arrays and functions, is not asked for.
        return " or ".join(_words(one) for one in inside if get_origin(one) not in (np.ndarray, Callable))
    if origin is Literal:
        return "one of " + ", ".join(map(repr, inside))
    if origin in (tuple, Sequence):
        count = f"{len(inside)} " if _fixed_length(hint) else ""
        return f"a list of {count}{_words(inside[0]).removeprefix('a ').replace('number', 'numbers')}"
    if origin is Mapping:
        return "a table"
    known = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", types.NoneType: "nothing"}
    return known.get(hint, "a value")
