"""What the examples must look like for a network."""

from __future__ import annotations

from collections.abc import Sequence

from lerpscape.base.errors import ConfigError, explain


def image_shape(inputs: Sequence[int], model: str, smallest: int = 1) -> tuple[int, int, int]:
    """Channels, height and width of an example that must be an image of at least this side.

    Raises `ConfigError` for other shapes.

    >>> image_shape((3, 32, 32), "vgg", smallest=32)
    (3, 32, 32)
    """
    if len(inputs) != 3 or min(inputs[1:]) < smallest:
        raise ConfigError(
            explain(
                expected=f"images (channels, height, width) for {model!r}, of {smallest} × {smallest} or more.",
                got=f"examples of shape {tuple(inputs)}.",
                hint="Choose other data, or fully_connected.",
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
            explain(
                expected=f"sequences of tokens for {model!r}: inputs=().",
                got=f"examples of shape {tuple(inputs)}.",
                hint="Choose text, or fully_connected.",
            )
        )
