"""`write_point()`: one point of the line between two checkpoints, written as its end is stored."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lerpscape.base.errors import explain, missing_file
from lerpscape.base.progress import Progress, progress_bar
from lerpscape.base.saving import replacing
from lerpscape.paths.checkpoints import continuous
from lerpscape.paths.formats.folders import is_index, shard_names, the_weights_in
from lerpscape.paths.formats.reading import read_weights
from lerpscape.paths.formats.safetensors_headers import dtypes_by_code, header_of
from lerpscape.paths.line import Line
from lerpscape.paths.matching import first_tied_names

# What lies beside the weights of a model and belongs to it: configurations, tokenizers, code.
BELONGS = ("*.json", "*.txt", "*.model", "*.jinja", "*.py", "*.tiktoken", "*.spm", "LICENSE*")
_OF_TRAINING = ("trainer_state.json", "all_results.json", "*_results.json")
_TORCH = (".pt", ".pth", ".bin")


def write_point(
    start: str | Path, end: str | Path, alpha: float, out: str | Path, *, progress: Progress = None
) -> Path:
    """Write the checkpoint θ(α) = (1−α) θ₀ + α θ_T as `end` is stored; returns `out`.

    * `start`, `end`: files or folders, as `Line` takes them. α beyond [0, 1] extrapolates.
    * `out`: a new folder where `end` is a folder: the same shards, index, dtypes and names, with the configuration
      and tokenizer files of `end` copied; else a new file of the same kind. `out` that ends in `.safetensors` is one
      file of all tensors, whatever `end` is.

    The numbers are those of `Line(start, end).at(alpha)`, in the dtypes of `end`.
    Tensors are written one after the other, into a draft that takes the place of `out` when it is complete.

    Raises `FileExistsError` where `out` exists, `ValueError` for an `end` of a format that is only read (write to a
    `.safetensors` file then) and for numbers that the dtype cannot hold, and what `Line` raises.

    >>> import tempfile
    >>> from safetensors.torch import load_file, save_file
    >>> folder = Path(tempfile.mkdtemp())
    >>> start, end = folder / "start.safetensors", folder / "end.safetensors"
    >>> save_file({"w": torch.zeros(2)}, start); save_file({"w": torch.ones(2)}, end)
    >>> load_file(write_point(start, end, 0.25, folder / "between.safetensors"))
    {'w': tensor([0.2500, 0.2500])}
    """
    start, end, out = Path(start), Path(end), Path(out)
    if not math.isfinite(alpha):
        raise ValueError(explain(expected="a finite α.", got=f"{alpha}.", hint="0 is the start, 1 the end."))
    if out.exists() or out.is_symlink():
        raise FileExistsError(
            explain(expected="a new place to write to.", got=f"{out}, which exists.", hint="Choose another name.")
        )
    for name, source in (("start", start), ("end", end)):
        if not source.exists():
            raise missing_file(f"a checkpoint ({name})", source)
    files, folder = _stored(end, out)
    point = _Point(Line(start, end), alpha)
    with progress_bar(progress, point.count, f"α = {alpha:g}", "tensor") as tell:
        point.tell = tell
        if folder is None:
            with replacing(out) as draft:
                _write_file(files, draft, point, out)
        else:
            with _draft_of(out) as draft:
                for file in files:
                    _write_file([file], draft / file.name, point, file)
                for file in _beside(folder, end):
                    shutil.copy2(file, draft / file.name)
    return out


class _Point:
    """The tensors at one α, computed when asked for; `tell` hears of each."""

    def __init__(self, line: Line, alpha: float) -> None:
        self._line, self._alpha = line, alpha
        self.count = len(line.end.tensors)
        self.tied = first_tied_names(line.start, line.end)
        self.tell: Callable[[int], object] = lambda done: None

    def names(self, stored: list[str]) -> dict[str, str]:
        """The names on the line of these names in the files of the end, which may have a prefix before them."""
        tensors = self._line.end.tensors
        parts = stored[0].split(".")
        for count in range(len(parts)):
            prefix = "".join(f"{part}." for part in parts[:count])
            if all(name.startswith(prefix) and name.removeprefix(prefix) in tensors for name in stored):
                return {name: name.removeprefix(prefix) for name in stored}
        lost = next(name for name in stored if name not in tensors)
        raise ValueError(
            explain(
                expected="files whose tensors have the names of the line.",
                got=f"{lost!r}, which the line has under another name.",
                hint="Write to a .safetensors file: one of all tensors of the line.",
            )
        )

    def at(self, name: str, dtype: torch.dtype) -> Tensor:
        """One tensor of the line at α."""
        start, end = (side.tensors[name].clone() for side in (self._line.start, self._line.end))
        self.tell(1)
        if torch.equal(start, end):
            return end.to(dtype)
        found = self._line.between_ends((start, end), self._alpha).to(dtype)
        if not continuous(start):
            return found
        if not found.isfinite().all() and start.isfinite().all() and end.isfinite().all():
            raise ValueError(
                explain(
                    expected=f"numbers that {str(dtype).removeprefix('torch.')} can hold.",
                    got=f"infinite ones in {name!r} at α = {self._alpha:g}, between finite ends.",
                    hint="Choose an α nearer to [0, 1], or ends in a wider dtype.",
                )
            )
        return found


def _stored(end: Path, out: Path) -> tuple[list[Path], Path | None]:
    """The files of the end that are to be written like, and the folder that they lie in, None for a single file."""
    folder = end if end.is_dir() else end.parent if is_index(end) else None
    files = [end]
    if folder is not None:
        weights = the_weights_in(end) if end.is_dir() else None
        files = list(weights.files) if weights else [end]
        if len(files) == 1 and is_index(files[0]):
            files = [folder / name for name in sorted(set(shard_names(files[0]).values()))]
    if out.suffix == ".safetensors":
        return files, None
    if any(file.suffix not in (".safetensors", *_TORCH) for file in files):
        raise ValueError(
            explain(
                expected=f"an end in .safetensors, {', '.join(_TORCH)}, whose format is written again.",
                got=f"{files[0].name}.",
                hint=f"--out {out.with_suffix('.safetensors')} is one file of all tensors.",
            )
        )
    if folder is None and out.suffix != end.suffix:
        raise ValueError(
            explain(
                expected=f"a file {out.with_suffix(end.suffix)} to write, as {end.name} is one.",
                got=f"{out}.",
                hint=f"--out {out.with_suffix('.safetensors')} is a file of safetensors.",
            )
        )
    return files, folder


def _write_file(like: list[Path], draft: Path, point: _Point, out: Path) -> None:
    """Write the tensors that these files have, in their dtypes, in the format that the name of `out` tells."""
    if out.suffix == ".safetensors" and all(file.suffix == ".safetensors" for file in like):
        headers = [header_of(file)[0] for file in like]
        header = headers[0] if len(headers) == 1 else _merged(headers)
        shapes = {name: facts for name, facts in header.items() if name != "__metadata__"}
        dtypes = {name: dtypes_by_code()[facts["dtype"]] for name, facts in shapes.items()}
        _write_safetensors(draft, header, dtypes, point.names(list(shapes)), point)
        return
    stored: dict[str, Tensor] = {}
    for file in like:
        inside, key = read_weights(file)
        if key and out.suffix != ".safetensors":
            raise ValueError(
                explain(
                    expected=f"{file.name} to hold tensors by name, and nothing else.",
                    got=f"tensors under {key!r}.",
                    hint=f"--out {out.with_suffix('.safetensors').name} is one file of the tensors alone.",
                )
            )
        stored |= inside
    dtypes = {name: tensor.dtype for name, tensor in stored.items()}
    shapes_of = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    del stored, inside
    names = point.names(list(dtypes))
    if out.suffix == ".safetensors":
        _write_safetensors(draft, _new_header(dtypes, shapes_of), dtypes, names, point)
        return
    tied: dict[tuple[str, torch.dtype], Tensor] = {}
    found: dict[str, Tensor] = {}
    for name, dtype in dtypes.items():
        first = point.tied[names[name]], dtype
        tied[first] = found[name] = tied[first] if first in tied else point.at(names[name], dtype)
    torch.save(found, draft)


def _write_safetensors(
    file: Path, header: Mapping[str, Any], dtypes: Mapping[str, torch.dtype], names: Mapping[str, str], point: _Point
) -> None:
    """A safetensors file with this header; tensors are computed and written one by one."""
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        begin = opened.tell()
        for name in sorted(dtypes, key=lambda each: header[each]["data_offsets"]):
            opened.seek(begin + header[name]["data_offsets"][0])
            tensor = point.at(names[name], dtypes[name])
            opened.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        opened.flush()
        os.fsync(opened.fileno())


def _merged(headers: list[dict[str, Any]]) -> dict[str, Any]:
    """One header for the tensors of several files."""
    every = {name: facts for header in headers for name, facts in header.items() if name != "__metadata__"}
    types = dtypes_by_code()
    return _new_header(
        {name: types[facts["dtype"]] for name, facts in every.items()},
        {name: tuple(facts["shape"]) for name, facts in every.items()},
    )


def _new_header(dtypes: Mapping[str, torch.dtype], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    names = {dtype: name for name, dtype in dtypes_by_code().items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name in sorted(dtypes, key=lambda each: (-dtypes[each].itemsize, each)):  # so that all are aligned
        size = math.prod(shapes[name]) * dtypes[name].itemsize
        place = [begin, begin := begin + size]
        header[name] = {"dtype": names[dtypes[name]], "shape": list(shapes[name]), "data_offsets": place}
    return header


def _beside(folder: Path, end: Path) -> list[Path]:
    """The files of a model that are no weights, and the index of its shards; no other index that lies there."""
    index = end if is_index(end) else the_weights_in(folder).files[0]
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and (file == index or not is_index(file))]
    named = [file for file in files if any(fnmatch(file.name, each) for each in BELONGS)]
    return [file for file in named if not any(fnmatch(file.name, each) for each in _OF_TRAINING)]


@contextmanager
def _draft_of(folder: Path) -> Iterator[Path]:
    """A new folder beside the one to be written, which takes its name at the end of the block, or not at all."""
    folder = folder.resolve()
    draft = folder.with_name(f".{folder.name}.{os.getpid()}.draft")
    try:
        draft.mkdir(parents=True)
        yield draft
        os.rename(draft, folder)
    except OSError as error:
        if str(error).startswith("expected:"):
            raise
        raise type(error)(
            explain(
                expected=f"{folder} to be written.",
                got=f"{error.strerror or error}.",
                hint="Free some space or choose another folder, then repeat the command.",
            )
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
