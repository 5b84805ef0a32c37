"""The errors a caller may want to catch; wrong arguments raise the built-in types."""


class LerpscapeError(Exception):
    """Anything that lerpscape itself refuses, with what was expected, what came and what to do."""


class EndpointMismatch(LerpscapeError):
    """The two ends of a path, or a path and a model, do not describe the same network."""


class NonFiniteLoss(LerpscapeError):
    """A loss is NaN or infinite, so no verdict about the curve exists."""


class NonFiniteOutput(LerpscapeError):
    """An output or its derivative is NaN or infinite, so its path has no direction."""


class Diverged(LerpscapeError):
    """A training run of ours, for a control point, ended worse than it began."""


class NotRepeatable(LerpscapeError):
    """A second pass over the data gave other data than the first."""


class ConfigError(LerpscapeError):
    """A configuration asks for something that does not exist, or in a form that cannot be read."""


class StoreConflict(LerpscapeError):
    """A store holds something else than what is to be written into it."""


class PartialMismatch(LerpscapeError):
    """A partial result on disk belongs to another measurement."""


def explain(expected: str, got: str, hint: str) -> str:
    """Put an error message together: what was expected, what came, what to do.

    >>> print(explain(expected="two ends.", got="one.", hint="Give both."))
    expected: two ends.
    got: one.
    try: Give both.
    """
    return f"expected: {expected}\ngot: {got}\ntry: {hint}"
