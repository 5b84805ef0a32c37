"""Calling a model on the inputs of a batch, and with its targets where the model is to have them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.utils.rnn import PackedSequence

# Keys under which dict batches may hold the targets, and models take them.
TARGET_KEYS = ("labels", "label", "targets", "target")


def called(model: nn.Module, inputs: Any, targets: Any, key: str | None, *, with_targets: bool) -> Any:
    """The model's output for inputs: one value, a tuple of positional arguments, or a dict of keyword arguments.

    Encoder–decoder models always have the targets: without labels they decode the source, or fail. `key` is the name
    of the targets in a dict batch; one without has all of it as inputs.

    >>> called(nn.Identity(), torch.ones(1), torch.zeros(1), None, with_targets=False)
    tensor([1.])
    """
    named = dict(inputs) if isinstance(inputs, Mapping) else {}
    several = type(inputs) in (tuple, list) or (hasattr(inputs, "_fields") and _takes_all(model, inputs))
    rest = () if isinstance(inputs, Mapping) else tuple(inputs) if several else (inputs,)
    all_inputs = key is None and isinstance(inputs, Mapping) and isinstance(targets, Mapping)
    if (with_targets or decodes_labels(model)) and "decoder_input_ids" not in named and not all_inputs:
        name = _name_of_targets(model, key)
        if name is None:
            rest = (*rest, targets)
        else:
            named[name] = targets
    return model(*rest, **named)


def decodes_labels(model: nn.Module) -> bool:
    """Whether a model, or the one that it wraps, is an encoder–decoder by its configuration.

    >>> decodes_labels(nn.Identity())
    False
    """
    return any(
        getattr(getattr(module, "config", None), "is_encoder_decoder", False) is True
        for module in (model, *model.children())
    )


def _name_of_targets(model: nn.Module, key: str | None) -> str | None:
    """The model's own name for the targets; None where it has none."""
    parameters = inspect.signature(model.forward).parameters
    name = next((name for name in (key, *TARGET_KEYS) if name in parameters), None)
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    return name or (key or TARGET_KEYS[0] if takes_any else None)


def _takes_all(model: nn.Module, inputs: Any) -> bool:
    """Whether a model takes the fields of a named tuple one by one, instead of the tuple as one object."""
    if isinstance(inputs, PackedSequence):
        return False
    try:
        inspect.signature(model.forward).bind(*inputs)
    except (TypeError, ValueError):
        return False
    return True
