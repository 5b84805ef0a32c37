"""Values and options from a configuration, held to the types of fields and to signatures."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from lerpscape.base.errors import ConfigError, explain
from lerpscape.base.names import unknown_name

Size: TypeAlias = Annotated[int, "≥ 1"]
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def check_options(
    name: str, function: Callable[..., Any], options: Mapping[str, Any], given: Collection[str] = ()
) -> None:
    """Hold options to the arguments of a function: their names, those that it needs, and the types that it states.

    `name` is what messages call the function, `given` are arguments that are not options. Known types are bool, int,
    float, str, `Size`, sequences, Literal and unions of them; any other type takes any value.

    Raises `ConfigError` for an unknown option, with the nearest, for a missing one and for a value of another type.

    >>> def factory(inputs, *, depth: int = 2): ...
    >>> check_options("mine", factory, {"dept": 3}, given=["inputs"])
    Traceback (most recent call last):
    lerpscape.base.errors.ConfigError: expected: option of 'mine': one of depth.
    got: 'dept'.
    try: Did you mean 'depth'?
    """
    parameters = {each.name: each for each in inspect.signature(function).parameters.values()}
    known = {key: each for key, each in parameters.items() if key not in given and each.kind not in _VARIADIC}
    free = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError:  # a type that is imported for type checkers alone
        hints = {}
    for option, value in options.items():
        if option not in known and not free:
            raise ConfigError(unknown_name(f"option of {name!r}", option, known))
        typed(value, hints.get(option, Any), f"{option} of {name!r}")
    for option, parameter in known.items():
        if parameter.default is parameter.empty and option not in options:
            raise ConfigError(
                explain(
                    expected=f"{_words(hints.get(option, Any))} for {option} of {name!r}.",
                    got="nothing.",
                    hint="It has no default: say what you want.",
                )
            )


def typed(value: Any, hint: Any, place: str) -> Any:
    """A value from TOML as the type wants it: 1 is 1.0 for a float, a list is a tuple, and True is no number.

    Raises `ConfigError` that says what `place` takes.

    >>> typed([1, 2], tuple[float, ...], "here")
    (1.0, 2.0)
    """
    found = _fit(value, hint)
    if found is _MISFIT:
        came = f"{value!r} ({type(value).__name__})."
        raise ConfigError(explain(expected=f"{_words(hint)} for {place}.", got=came, hint="Correct the value."))
    return found


_MISFIT = object()


def _fit(value: Any, hint: Any) -> Any:
    """The value as the type wants it, or _MISFIT."""
    origin, inside = get_origin(hint), get_args(hint)
    if hint == Size:
        return value if type(value) is int and value >= 1 else _MISFIT
    if origin in (Union, types.UnionType):
        return next((found for each in inside if (found := _fit(value, each)) is not _MISFIT), _MISFIT)
    if origin is Literal:
        return value if value in inside else _MISFIT
    if origin in (tuple, Sequence):
        if not isinstance(value, (list, tuple)):
            return _MISFIT
        hints = inside if _counted(hint) else inside[:1] * len(value)
        parts = [_fit(part, each) for part, each in zip(value, hints, strict=False)]
        return tuple(parts) if len(value) == len(hints) and _MISFIT not in parts else _MISFIT
    if hint is float and type(value) is int:
        return float(value)
    return value if type(value) is hint or hint not in (bool, int, float, str, types.NoneType) else _MISFIT


def _counted(hint: Any) -> bool:
    """Whether a type says how many values it takes, as `tuple[float, float]` does and `tuple[float, ...]` does not."""
    return get_origin(hint) is tuple and get_args(hint)[-1] is not Ellipsis


def _words(hint: Any) -> str:
    origin, inside = get_origin(hint), get_args(hint)
    if hint == Size:
        return "a whole number ≥ 1"
    if origin in (Union, types.UnionType):
        return " or ".join(map(_words, inside))
    if origin is Literal:
        return "one of " + ", ".join(map(repr, inside))
    if origin in (tuple, Sequence):
        count = f"{len(inside)} " if _counted(hint) else ""
        return f"a list of {count}{_words(inside[0]).removeprefix('a ').replace('number', 'numbers')}"
    known = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", types.NoneType: "nothing"}
    return known.get(hint, "a value")
