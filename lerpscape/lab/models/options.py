"""What the options of a model are held to before it is built."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_type_hints

from lerpscape.errors import ConfigError, three_parts
from lerpscape.names import unknown_name

KINDS: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    bool: ("true or false", lambda value: isinstance(value, bool)),
    int: ("a whole number ≥ 1", lambda value: _whole(value)),
    float: ("a number", lambda value: isinstance(value, int | float) and not isinstance(value, bool)),
    str: ("a word", lambda value: isinstance(value, str)),
    Sequence[int]: (
        "a list of whole numbers ≥ 1",
        lambda value: isinstance(value, list | tuple) and all(map(_whole, value)),
    ),
}
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def check_options(name: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Hold options to a factory's keyword arguments: their names, and the types that it states for them.

    Raises `ConfigError` for an unknown option, with the nearest, for a value of another type, and where a factory's
    option without a default is not given.

    >>> def factory(inputs, outputs, *, depth: int = 2): ...
    >>> check_options("mine", factory, {"dept": 3})
    Traceback (most recent call last):
    lerpscape.errors.ConfigError: expected: option of 'mine': one of depth.
    got: 'dept'.
    try: Did you mean 'depth'?
    """
    parameters = list(inspect.signature(factory).parameters.values())
    known = [each.name for each in parameters if each.name not in ("inputs", "outputs") and each.kind not in VARIADIC]
    free = any(each.kind is each.VAR_KEYWORD for each in parameters)
    needed = [each.name for each in parameters if each.default is each.empty and each.kind not in VARIADIC]
    for option in needed:
        if option in known and option not in options:
            raise ConfigError(
                three_parts(f"a value for {option}, which {name!r} needs.", "none.", f"Add the option {option}.")
            )
    try:
        hints = get_type_hints(factory)
    except NameError:  # a type that is imported for type checkers alone
        hints = {}
    for option, value in options.items():
        if option not in known and not free:
            raise ConfigError(unknown_name(f"option of {name!r}", option, known))
        words, fits = KINDS.get(hints.get(option), ("", lambda _: True))
        if not fits(value):
            raise ConfigError(three_parts(f"{words} for {option} of {name!r}.", f"{value!r}.", "Change its type."))


def image_shape(inputs: Sequence[int], model: str, smallest: int = 1) -> tuple[int, int, int]:
    """Channels, height and width of an example that must be an image of at least this side.

    Raises `ConfigError` for other shapes.

    >>> image_shape((3, 32, 32), "vgg", smallest=32)
    (3, 32, 32)
    """
    if len(inputs) != 3 or min(inputs[1:]) < smallest:
        raise ConfigError(
            three_parts(
                f"images (channels, height, width) for {model!r}, of {smallest} × {smallest} or more.",
                f"examples of shape {tuple(inputs)}.",
                "Choose other data, or fully_connected.",
            )
        )
    channels, height, width = inputs
    return channels, height, width


def sequence_shape(inputs: Sequence[int], model: str) -> None:
    """Refuse examples that are no sequences of tokens.

    Raises `ConfigError` for any shape but that of one token, ().

    >>> sequence_shape((), "lstm")
    """
    if len(inputs):
        raise ConfigError(
            three_parts(
                f"sequences of tokens for {model!r}: inputs=().",
                f"examples of shape {tuple(inputs)}.",
                "Choose text, or fully_connected.",
            )
        )
