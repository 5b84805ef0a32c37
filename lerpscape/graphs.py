"""The operations of a module, as `torch.fx` finds them."""

from __future__ import annotations

from torch import fx, nn

from lerpscape.errors import three_parts


def traced(model: nn.Module, advice: str) -> fx.Graph:
    """The graph of a module's forward, layers of torch.nn kept whole.

    Raises `TypeError` with this advice for a module that cannot be traced.

    >>> [node.op for node in traced(nn.Sequential(nn.Linear(1, 1), nn.ReLU()), "").nodes]
    ['placeholder', 'call_module', 'call_module', 'output']
    """
    try:
        return fx.Tracer().trace(model)
    except Exception as error:  # whatever a forward() may raise when it is called with a proxy
        raise TypeError(
            three_parts(
                "a model that torch.fx can trace: no branch or loop that depends on the values of tensors.",
                f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
                advice,
            )
        ) from error
