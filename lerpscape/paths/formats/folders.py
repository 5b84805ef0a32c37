"""The weights in a folder: single files, shards with or without an index, and the folders that trainers write."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from lerpscape.base.errors import explain
from lerpscape.paths.formats.distributed import METADATA
from lerpscape.paths.formats.refusals import foreign_kind, refuse_foreign

ENDINGS = (".safetensors", ".pt", ".pth", ".pth.tar", ".ckpt", ".bin", ".npz")
# What trainers put beside the weights: states of optimisers, schedulers, generators and loaders, and arguments.
_BESIDE = (
    "optim*",
    "*optim_states*",
    "scheduler*",
    "scaler*",
    "rng_state*",
    "random_states*",
    "training_args*",
    "sampler*",
    "dl_state*",
    "custom_checkpoint*",
    "zero_pp_rank*",
)
_INDEX = re.compile(r"\.index(\.[^.]+)?\.json$")
_SHARD = re.compile(r"^(?P<before>.*)-(?P<number>\d+)-of-(?P<count>\d+)(?P<after>\.[^/]*)$")
# DeepSpeed: the file that names the newest folder, and the pieces that ZeRO-3 cuts every tensor into.
_LATEST, _PIECES = "latest", "zero_pp_rank_*_model_states.pt"


@dataclass(frozen=True)
class Weights:
    """The weights of one network in a folder: a file, an index, a folder (`.metadata`), or all shards of a set."""

    name: str
    files: tuple[Path, ...]


def is_index(path: Path) -> bool:
    """Whether a file lists shards."""
    return _INDEX.search(path.name) is not None


def weights_in(folder: Path) -> list[Weights]:
    """Everything in a folder that holds the weights of a network, by name; [] for none.

    Raises `ValueError` for a set of shards that is not complete.
    """
    files = sorted(each for each in folder.iterdir() if each.is_file())
    found = [Weights(METADATA, (folder,))] if (folder / METADATA).is_file() else []
    taken: set[str] = set()
    for index in filter(is_index, files):
        found.append(Weights(index.name, (index,)))
        taken.update(str(shard) for shard in shard_names(index).values())
    sets: dict[str, dict[int, Path]] = {}
    for file in files:
        if not file.name.endswith(ENDINGS) or file.name in taken or any(fnmatch(file.name, each) for each in _BESIDE):
            continue
        shard = _SHARD.match(file.name)
        if shard:
            name = f"{shard['before']}-*-of-{shard['count']}{shard['after']}"
            sets.setdefault(name, {})[int(shard["number"])] = file
        else:
            found.append(Weights(file.name, (file,)))
    for name, shards in sets.items():
        count = int(next(iter(name.split("-of-")[-1:])).split(".")[0])
        missing = sorted(set(range(1, count + 1)) - set(shards))
        if missing or len(shards) > count:
            raise ValueError(
                explain(
                    expected=f"all {count} shards {name} in {folder}.",
                    got=f"{len(shards)}, without number {missing[0] if missing else 0}.",
                    hint="Copy the others beside them.",
                )
            )
        found.append(Weights(name, tuple(shards[number] for number in sorted(shards))))
    latest = folder / _LATEST
    if not found and latest.is_file():
        inner = folder / latest.read_text().strip()
        if inner.parent == folder and inner.is_dir():
            return weights_in(inner)
    return found


def the_weights_in(folder: Path) -> Weights:
    """The only weights in a folder.

    Raises `FileNotFoundError` for none, and `ValueError` for several (the message lists them) or for those of another
    framework.
    """
    found = weights_in(folder)
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            explain(
                expected=f"the weights of one network in {folder}.",
                got=f"{', '.join(each.name for each in found)}.",
                hint=f"Name the one to read: {folder / found[-1].name}",
            )
        )
    if any(folder.glob(_PIECES)):
        raise ValueError(
            explain(
                expected=f"whole tensors in {folder}.",
                got="the pieces that DeepSpeed's ZeRO-3 leaves on every rank.",
                hint="python zero_to_fp32.py FOLDER weights/  (the script lies beside the checkpoint)",
            )
        )
    for file in sorted(folder.iterdir()):
        if foreign_kind(file):
            refuse_foreign(file)
    inner = [each.name for each in sorted(folder.iterdir()) if each.is_dir() and weights_in(each)]
    raise FileNotFoundError(
        explain(
            expected=f"weights in {folder}, in files that end in {', '.join(ENDINGS)}, or in .metadata.",
            got=f"folders that hold some: {', '.join(inner)}." if inner else "none.",
            hint=f"Name one of them: {folder / inner[-1]}" if inner else "Name the checkpoint file itself.",
        )
    )


def shard_names(index: Path) -> dict[str, str]:
    """The file of each tensor, as an index says.

    Raises `ValueError` for an index that is not one, or names anything but files beside it.
    """
    try:
        shard_of: dict[str, str] = dict(json.loads(index.read_text())["weight_map"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            explain(
                expected=f"{index} to be JSON with a weight_map from names of tensors to files.",
                got=f"{type(error).__name__}: {error}.",
                hint="Copy it again from where the checkpoint was saved.",
            )
        ) from error
    for shard in sorted(set(shard_of.values()), key=str):
        beside = isinstance(shard, str) and Path(shard).name == shard and not (index.parent / shard).is_dir()
        if not beside or is_index(Path(shard)):
            raise ValueError(
                explain(
                    expected=f"the shards of {index} to be files beside it.",
                    got=f"{shard!r}.",
                    hint="Put all shards into the folder of the index, under the names it gives.",
                )
            )
    return shard_of
