"""Sets of checkpoints of one network: a folder of snapshots, a list or a mapping, read and compared."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from lerpscape.base.errors import EndpointMismatch, explain
from lerpscape.paths.checkpoints import Checkpoint, Source, checkpoint
from lerpscape.paths.matching import matched

Snapshots: TypeAlias = "str | Path | Sequence[Source] | Mapping[str, Source]"
ENDINGS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")


def snapshots(source: Snapshots, least: int = 2) -> dict[str, Checkpoint]:
    """Checkpoints by label: those of a folder in the order of the numbers in their names, or those given.

    Raises `ValueError` for fewer than `least`, `EndpointMismatch` that names the first that is of another network.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for step in (9, 10, 1):
    ...         torch.save({"w": torch.ones(1) * step}, f"{folder}/step{step}.pt")
    ...     list(snapshots(folder))
    ['step1', 'step9', 'step10']
    """
    if isinstance(source, (str, Path)):
        folder = Path(source)
        if not folder.is_dir():
            raise ValueError(
                explain(expected="a folder of checkpoints.", got=f"{folder}, which is none.", hint="Check the path.")
            )
        files = sorted((each for each in folder.iterdir() if each.suffix in ENDINGS), key=_by_number)
        given: dict[str, Source] = {each.stem: each for each in files}
        if len(given) < len(files):
            raise ValueError(
                explain(
                    expected=f"one file for each name in {folder}.",
                    got="two with one stem.",
                    hint="Move one elsewhere.",
                )
            )
    elif isinstance(source, Mapping):
        given = dict(source)
    else:
        given = {str(index): each for index, each in enumerate(source)}
    if len(given) < least:
        raise ValueError(
            explain(
                expected=f"at least {least} checkpoints.",
                got=f"{len(given)} in {source if isinstance(source, (str, Path)) else 'the list'}.",
                hint=f"Files that count end in {', '.join(ENDINGS)}.",
            )
        )
    found = {label: checkpoint(each) for label, each in given.items()}
    first, *others = found
    for label in others:
        try:
            found[first], found[label] = matched(found[first], found[label])
        except EndpointMismatch as error:
            raise EndpointMismatch(f"checkpoint {label!r} does not fit {first!r}\n{error}") from error
    return found


def _by_number(file: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", file.stem)]
