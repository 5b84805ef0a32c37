"""The names that transformers' files have for the tensors of its modules, which are not always the modules' own.

A file keeps the names of the release that it was first written for. transformers renames them when it loads one, and
knows which of them have no meaning any more and which of a module's tensors it never writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import nn

from lerpscape.paths.checkpoints import Checkpoint
from lerpscape.paths.fitting_names import fitting_prefixes


def own_names(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """The names of a file by those that the model has for them, without what its library leaves out of such files.

    Each name stands for itself where the model is of no library that renames. Tensors that the library would join or
    cut are under the name that they have in the file.

    >>> own_names(nn.Linear(1, 1), ["weight"])
    {'weight': 'weight'}
    """
    names = sorted(names)
    if not _of_transformers(model):
        return {name: name for name in names}
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, rename_source_key
    except ImportError:  # before transformers 5, files had the modules' names
        return {name: name for name in names}
    steps = get_model_conversion_mapping(model)
    joined = [step for step in steps if isinstance(step, WeightConverter)]
    renamed = [step for step in steps if not isinstance(step, WeightConverter)]
    state = model.state_dict()
    left_out = [re.compile(each) for each in getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()]
    found: dict[str, str] = {}
    for name in names:
        own, converted = rename_source_key(name, renamed, joined, model.base_model_prefix, state)
        own = own if converted is None else name
        if own in state or not any(each.search(own) for each in left_out):
            found.setdefault(own, name)
    return found


def unsaved_names(model: nn.Module) -> set[str]:
    """Names of tensors that every model of this class has alike, so that its library writes them to no file.

    >>> unsaved_names(nn.Linear(1, 1))
    set()
    """
    return set(getattr(model, "_keys_to_ignore_on_save", None) or ()) if _of_transformers(model) else set()


def named_by(model: nn.Module, file: Checkpoint) -> Checkpoint:
    """A file's checkpoint with the names that the model has for its tensors, and those that are in no file.

    >>> file = Checkpoint({"w": torch.ones(1)}, ("w",), "w.pt")
    >>> named_by(nn.Linear(1, 1), file) is file
    True
    """
    state = model.state_dict()
    if not _of_transformers(model) or any(fitting_prefixes(file.tensors, state)) or set(file.tensors) == set(state):
        return file
    own = own_names(model, file.tensors)
    tensors = {name: file.tensors[known] for name, known in own.items()}
    tensors |= {name: state[name] for name in unsaved_names(model) if name in state and name not in tensors}
    parameters = tuple(name for name, known in own.items() if known in file.parameters)
    return Checkpoint(tensors, parameters, file.source)


def _of_transformers(model: nn.Module) -> bool:
    return any(kind.__module__ == "transformers.modeling_utils" for kind in type(model).__mro__)
