"""Options from a configuration, held to the signature of the function that takes them."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from lerpscape.errors import ConfigError, three_parts
from lerpscape.names import unknown_name

Size: TypeAlias = Annotated[int, "≥ 1"]
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def check_options(
    name: str, function: Callable[..., Any], options: Mapping[str, Any], given: Collection[str] = ()
) -> None:
    """Hold options to the arguments of a function: their names, those that it needs, and the types that it states.

    `name` is what messages call the function, `given` are arguments that are not options. Known types are bool, int,
    float, str, `Size`, sequences of `Size`, Literal and unions of them; any other type takes any value.

    Raises `ConfigError` for an unknown option, with the nearest, for a missing one and for a value of another type.

    >>> def factory(inputs, *, depth: int = 2): ...
    >>> check_options("mine", factory, {"dept": 3}, given=["inputs"])
    Traceback (most recent call last):
    lerpscape.errors.ConfigError: expected: option of 'mine': one of depth.
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
        hint = hints.get(option, Any)
        if not _fits(value, hint):
            raise ConfigError(
                three_parts(
                    f"{_words(hint)} for {option} of {name!r}.",
                    f"{value!r} ({type(value).__name__}).",
                    "Correct the value.",
                )
            )
    for option, parameter in known.items():
        if parameter.default is parameter.empty and option not in options:
            raise ConfigError(
                three_parts(
                    f"{_words(hints.get(option, Any))} for {option} of {name!r}.",
                    "nothing.",
                    "It has no default: say what you want.",
                )
            )


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value from a TOML file is of this type: true is no number, and 1 is as good as 1.0."""
    if hint == Size:
        return type(value) is int and value >= 1
    if hint == Sequence[Size]:
        return isinstance(value, list | tuple) and all(_fits(each, Size) for each in value)
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(value, each) for each in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint if hint in (bool, int, str, type(None)) else True


def _words(hint: Any) -> str:
    if hint == Size:
        return "a whole number ≥ 1"
    if hint == Sequence[Size]:
        return "a list of whole numbers ≥ 1"
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint)))
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(map(_words, get_args(hint)))
    known = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", type(None): "nothing"}
    return known.get(hint, "a value")
