"""Reading several checkpoints of one network, from a folder of snapshots, a list or a mapping."""

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
    """Checkpoints by label: those of a list or mapping, or the files of a folder in the order of their numbers.

    Labels are the stems of the files, the positions in the list, or the keys of the mapping.

    Raises `ValueError` for fewer than `least` checkpoints, and `EndpointMismatch` that names the first checkpoint of
    another network.

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
        files = sorted((file for file in folder.iterdir() if file.suffix in ENDINGS), key=_by_number)
        sources: dict[str, Source] = {file.stem: file for file in files}
        if len(sources) < len(files):
            raise ValueError(
                explain(
                    expected=f"one file for each name in {folder}.",
                    got="two whose names differ in the suffix only.",
                    hint="Move one elsewhere.",
                )
            )
    elif isinstance(source, Mapping):
        sources = dict(source)
    else:
        sources = {str(index): item for index, item in enumerate(source)}
    if len(sources) < least:
        raise ValueError(
            explain(
                expected=f"at least {least} checkpoints.",
                got=f"{len(sources)} in {source if isinstance(source, (str, Path)) else 'the list'}.",
                hint=f"Names of checkpoint files end in {', '.join(ENDINGS)}.",
            )
        )
    checkpoints = {label: checkpoint(item) for label, item in sources.items()}
    first, *others = checkpoints
    for label in others:
        try:
            checkpoints[first], checkpoints[label] = matched(checkpoints[first], checkpoints[label])
        except EndpointMismatch as error:
            which = f"expected: checkpoint {label!r} to fit {first!r}: "
            raise EndpointMismatch(which + str(error).removeprefix("expected: ")) from error
    return checkpoints


def _by_number(file: Path) -> list[tuple[int, str]]:
    """A sort key by which step9 comes before step10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", file.stem)]
