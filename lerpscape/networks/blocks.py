"""The blocks that a network repeats, such as the layers of a transformer or the residual blocks of a stage."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


def block_names(model: nn.Module) -> tuple[str, ...]:
    """Names of a model's blocks: the elements of its outermost `ModuleList`s, and of `Sequential`s of one class.

    An element has modules inside it, or is in a list of such.

    >>> def layer():
    ...     return nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    >>> block_names(nn.ModuleDict({"embed": nn.Linear(2, 2), "layers": nn.ModuleList([layer(), layer()])}))
    ('layers.0', 'layers.1')
    """
    found: list[str] = []

    def visit(module: nn.Module, name: str) -> None:
        for part, child in module.named_children():
            path = f"{name}.{part}" if name else part
            if _repeats(module):
                found.append(path)
            else:
                visit(child, path)

    visit(model, "")
    return tuple(found)


def block_of(name: str, blocks: Iterable[str]) -> str | None:
    """The block that a tensor of this name is in; None for none.

    >>> block_of("layers.1.0.weight", ["layers.0", "layers.1"]), block_of("layers.10.bias", ["layers.1"])
    ('layers.1', None)
    """
    return next((block for block in blocks if name.startswith(f"{block}.")), None)


def _repeats(module: nn.Module) -> bool:
    """Whether the children of a module are blocks."""
    children = list(module.children())
    compound = any(True for child in children for _ in child.children())
    if isinstance(module, nn.ModuleList):
        return compound
    return isinstance(module, nn.Sequential) and compound and len({type(child) for child in children}) == 1
