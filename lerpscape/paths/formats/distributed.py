"""Folders of `torch.distributed.checkpoint`: `.metadata`, which says where pieces of tensors lie in `.distcp` files."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lerpscape.base.errors import explain
from lerpscape.paths.formats.inert_pickle import Record, unpickled
from lerpscape.paths.formats.refusals import damaged
from lerpscape.paths.formats.torch_files import DAMAGED, tensor_of

METADATA = ".metadata"
# Names in a `.metadata` file. All become inert records, so what counts is that there is no other one.
_METADATA_NAMES = ("torch.distributed.", "torch.serialization.", "torch.", "pathlib.", "collections.")


def read_distributed(folder: Path) -> dict[str, Any]:
    """Every tensor of the folder, in dictionaries nested as they were saved.

    Raises `ValueError` for a damaged folder, and for one with other things in its metadata, or compressed pieces.
    """
    path = folder / METADATA
    try:
        metadata = unpickled(path.read_bytes(), _find)
        if not isinstance(metadata, Record):
            raise pickle.UnpicklingError(type(metadata).__name__)
        return _nested(folder, metadata.state)
    except pickle.UnpicklingError as error:
        raise ValueError(
            explain(
                expected=f"{path} to be written by torch.distributed.checkpoint.",
                got=f"{error}.",
                hint="python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER weights.pt",
            )
        ) from error
    except DAMAGED as error:
        raise damaged(path, "the metadata of the files beside it", error) from error


def _find(module: str, name: str) -> Any:
    if not f"{module}.".startswith(_METADATA_NAMES):
        raise pickle.UnpicklingError(f"{module}.{name}")
    if (module, name) == ("torch", "Size"):
        return tuple
    return type("Inert", (Record,), {"name": name})


def _nested(folder: Path, metadata: dict[str, Any]) -> dict[str, Any]:
    whole: dict[str, Tensor] = {}
    covered: dict[str, int] = {}
    kinds = {name: item.state or {} for name, item in metadata["state_dict_metadata"].items()}
    for index, place in metadata["storage_data"].items():
        name = index.state["fqn"]
        if "size" not in kinds[name]:
            continue  # an object that is not a tensor
        piece = _piece(folder, place.state)
        size, offset = kinds[name]["size"], index.state["offset"] or (0,) * piece.dim()
        tensor = whole.setdefault(name, torch.empty(size, dtype=piece.dtype))
        part = tuple(slice(first, first + length) for first, length in zip(offset, piece.shape, strict=True))
        tensor[part].copy_(piece.view(tensor[part].shape))
        covered[name] = covered.get(name, 0) + piece.numel()
    for name, kind in kinds.items():
        if "size" in kind and (name not in whole or covered[name] != whole[name].numel()):
            raise ValueError(f"{name!r} is not complete")
    saved: dict[str, Any] = {}
    keys = metadata.get("planner_data") or {}
    for name, tensor in whole.items():
        *outer, last = keys.get(name, (name,)) if isinstance(keys, dict) else (name,)
        inside = saved
        for key in outer:
            inside = inside.setdefault(key, {})
        inside[last] = tensor
    return saved


def _piece(folder: Path, place: dict[str, Any]) -> Tensor:
    """The piece of a tensor at a place in a file beside the metadata."""
    file = place["relative_path"]
    if not isinstance(file, str) or Path(file).name != file:
        raise pickle.UnpicklingError(f"a piece in {file!r}, which is not a file beside it")
    if place.get("transform_descriptors"):
        raise pickle.UnpicklingError("compressed pieces")
    with (folder / file).open("rb") as opened:
        opened.seek(place["offset"])
        piece = tensor_of(opened.read(place["length"]))
    if not isinstance(piece, Tensor):
        raise pickle.UnpicklingError(f"a {type(piece).__name__} in place of a tensor")
    return piece
