"""Errors that a caller may want to catch. Wrong arguments raise `ValueError` and `TypeError`."""


class LerpscapeError(Exception):
    """Base class of lerpscape's errors; the message says what was expected, what was given, and what to do."""


class EndpointMismatch(LerpscapeError):
    """Two checkpoints of a path, or a path and a model, are not of the same network."""


class NonFiniteLoss(LerpscapeError):
    """A loss is NaN or infinite, so that the curve has no verdict."""


class NonFiniteOutput(LerpscapeError):
    """A network's output or its derivative is NaN or infinite, so that the path of the outputs has no direction."""


class Diverged(LerpscapeError):
    """Training the control point of a curve ended with a higher loss than it started with."""


class CallFailed(LerpscapeError, RuntimeError):
    """The model, the loss or the data raised an exception, which is the `__cause__`."""


class NotRepeatable(LerpscapeError):
    """A second pass over the data did not give the same data as the first."""


class ConfigError(LerpscapeError):
    """A configuration has an unknown option, or a value that cannot be read."""


class StoreConflict(LerpscapeError):
    """A store already holds a different result under the key that is to be written."""


class PartialMismatch(LerpscapeError):
    """A partial result on disk belongs to another measurement."""


def explain(expected: str, got: str, hint: str) -> str:
    """An error message in three parts: what was expected, what was given, and what to do.

    >>> print(explain(expected="two ends.", got="one.", hint="Give both."))
    expected: two ends.
    got: one.
    try: Give both.
    """
    return f"expected: {expected}\ngot: {got}\ntry: {hint}"


def missing_file(what: str, path: object) -> FileNotFoundError:
    """The error to raise for the path of a file that does not exist.

    >>> print(missing_file("a checkpoint", "final.pt"))
    expected: the path of a checkpoint.
    got: final.pt, which does not exist.
    try: Check the spelling and folder.
    """
    return FileNotFoundError(
        explain(
            expected=f"the path of {what}.",
            got=f"{path}, which does not exist.",
            hint="Check the spelling and folder.",
        )
    )
