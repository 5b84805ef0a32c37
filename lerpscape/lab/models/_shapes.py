"""The shapes of examples that a network accepts."""

from __future__ import annotations

from collections.abc import Sequence

from lerpscape.base.errors import ConfigError, explain


def image_shape(inputs: Sequence[int], model: str, smallest: int = 1) -> tuple[int, int, int]:
    """Channels, height and width of an example, which must be an image of at least `smallest` × `smallest` pixels.

    Raises `ConfigError` for another shape.

    >>> image_shape((3, 32, 32), "vgg", smallest=32)
    (3, 32, 32)
    """
    if len(inputs) != 3 or min(inputs[1:]) < smallest:
        raise ConfigError(
            explain(
                expected=f"images (channels, height, width) for {model!r}, of {smallest} × {smallest} or more.",
                got=f"examples of shape {tuple(inputs)}.",
                hint="Choose a data set of such images, or the model fully_connected.",
            )
        )
    channels, height, width = inputs
    return channels, height, width


def sequence_shape(inputs: Sequence[int], model: str) -> None:
    """Raise `ConfigError` unless examples are sequences of tokens, with the shape () of one token.

    >>> sequence_shape((), "lstm")
    """
    if len(inputs):
        raise ConfigError(
            explain(
                expected=f"sequences of tokens for {model!r}: inputs=().",
                got=f"examples of shape {tuple(inputs)}.",
                hint="Choose a text, or the model fully_connected.",
            )
        )
