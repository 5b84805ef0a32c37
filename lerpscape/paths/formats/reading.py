"""`read_weights`: the tensors of a checkpoint file or folder, whatever its format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from lerpscape.base.errors import explain, missing_file
from lerpscape.paths.formats.distributed import read_distributed
from lerpscape.paths.formats.folders import is_index, shard_names, the_weights_in
from lerpscape.paths.formats.plain_files import read_npz, read_safetensors
from lerpscape.paths.formats.refusals import refuse_foreign
from lerpscape.paths.formats.state_dicts import state_dict_in
from lerpscape.paths.formats.stored import is_large
from lerpscape.paths.formats.torch_files import is_torchscript, read_torch
from lerpscape.paths.formats.torchscript import read_torchscript


def read_weights(path: Path, key: str | None = None) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file or folder by name, and the key of the state dict they were under, "" for none.

    Those of large files are deferred: read when an operation asks for them.

    Raises `FileNotFoundError`, and `ValueError` for what is damaged, of another framework, or holds several networks.
    """
    if path.is_dir():
        weights = the_weights_in(path)
        if len(weights.files) > 1:
            return _joined(path, weights.files), ""
        (path,) = weights.files
        if path.is_dir():
            return state_dict_in(read_distributed(path), path, key)
    if not path.exists():
        raise missing_file("a checkpoint", path)
    if is_index(path):
        return _indexed(path), ""
    return state_dict_in(_content(path, leave=is_large([path])), path, key)


def _content(path: Path, *, leave: bool) -> Any:
    """What a file holds: tensors by name, in nested dictionaries for some formats; unread with `leave`."""
    refuse_foreign(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path, leave=leave)
    if path.suffix == ".npz":
        return read_npz(path)
    if path.suffix == ".distcp":
        raise ValueError(
            explain(
                expected="the folder of a distributed checkpoint.",
                got=f"{path}, one file of it.",
                hint=f"{path.parent}",
            )
        )
    return read_torchscript(path) if is_torchscript(path) else read_torch(path, leave=leave)


def _indexed(index: Path) -> dict[str, Tensor]:
    """Each tensor from the shard that the index names for it; what else a shard holds is left out."""
    shard_of = shard_names(index)
    tensors: dict[str, Tensor] = {}
    shards = sorted(set(shard_of.values()))
    leave = is_large([index.parent / shard for shard in shards])
    for shard in shards:
        inside = _shard(index.parent / shard, leave=leave)
        names = [name for name, file in shard_of.items() if file == shard]
        missing = [name for name in names if name not in inside]
        if missing:
            raise ValueError(
                explain(
                    expected=f"{shard} to hold {missing[0]!r}, as {index.name} says.",
                    got=f"{len(inside)} tensors without it ({len(missing)} are missing).",
                    hint="Index and shards may be of different checkpoints: copy all of them again.",
                )
            )
        tensors |= {name: inside[name] for name in names}
    return tensors


def _joined(folder: Path, shards: tuple[Path, ...]) -> dict[str, Tensor]:
    """The tensors of all shards of a set without an index."""
    tensors: dict[str, Tensor] = {}
    leave = is_large(shards)
    for shard in shards:
        inside = _shard(shard, leave=leave)
        twice = [name for name in inside if name in tensors]
        if twice:
            raise ValueError(
                explain(
                    expected=f"each tensor in one of the {len(shards)} shards in {folder}.",
                    got=f"{twice[0]!r} in {shard.name} and an earlier one.",
                    hint="Put the index (.index.json) beside them, which says which one counts.",
                )
            )
        tensors |= inside
    return tensors


def _shard(path: Path, *, leave: bool) -> dict[str, Tensor]:
    if not path.exists():
        raise missing_file("a checkpoint", path)
    return state_dict_in(_content(path, leave=leave), path, None)[0]
