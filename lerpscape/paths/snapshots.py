"""Reading several checkpoints of one network, from a folder of snapshots, a list or a mapping."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from lerpscape.base.errors import EndpointMismatch, explain
from lerpscape.paths.checkpoints import Checkpoint, Source, checkpoint
from lerpscape.paths.formats.folders import ENDINGS, weights_in
from lerpscape.paths.matching import matched

Snapshots: TypeAlias = "str | Path | Sequence[Source] | Mapping[str, Source]"
# Names without a number that say where in training a checkpoint is.
_FIRST, _LAST = ("start", "init", "initial", "initialization"), ("end", "final", "last")


def snapshots(source: Snapshots, least: int = 2, ordered: bool = True) -> dict[str, Checkpoint]:
    """Checkpoints by label: those of a list or mapping, or the files and folders in a folder, in order of training.

    Labels are the stems of the files, the names of the folders, the positions in the list, or the keys of the mapping.
    The order in a folder is that of the numbers in the names, or of `global_step` in the `trainer_state.json` of a
    Trainer's folder; `start` and `init` come first, `end`, `final` and `last` come last.

    Raises `ValueError` for fewer than `least` checkpoints, for names that do not say their order (unless it does not
    matter, `ordered=False`), and `EndpointMismatch` that names the first checkpoint of another network.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("step9", "step10", "step1", "start"):
    ...         torch.save({"w": torch.ones(1) * len(name)}, f"{folder}/{name}.pt")
    ...     list(snapshots(folder))
    ['start', 'step1', 'step9', 'step10']
    """
    if isinstance(source, (str, Path)):
        sources: dict[str, Source] = dict(_in_folder(Path(source), ordered))
    elif isinstance(source, Mapping):
        sources = dict(source)
    else:
        sources = {str(index): item for index, item in enumerate(source)}
    if len(sources) < least:
        raise ValueError(
            explain(
                expected=f"at least {least} checkpoints.",
                got=f"{len(sources)} in {source if isinstance(source, (str, Path)) else 'the list'}.",
                hint=f"Checkpoints are folders, or files whose names end in {', '.join(ENDINGS)}.",
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


def _in_folder(folder: Path, ordered: bool) -> dict[str, Path]:
    """The files and folders of a folder that hold weights, by label."""
    if not folder.is_dir():
        raise ValueError(
            explain(expected="a folder of checkpoints.", got=f"{folder}, which is none.", hint="Check the path.")
        )
    whole = weights_in(folder)
    parts = [each.name for each in whole if len(each.files) > 1 or not each.files[0].name.endswith(ENDINGS)]
    if parts:
        raise ValueError(
            explain(
                expected=f"one file or folder for each checkpoint in {folder}.",
                got=f"{parts[0]}, the parts of one checkpoint.",
                hint="Put it into a folder of its own.",
            )
        )
    found = [each.files[0] for each in whole]
    found += [each for each in folder.iterdir() if each.is_dir() and weights_in(each)]
    labels = {each: each.name if each.is_dir() else each.stem for each in found}
    if len(set(labels.values())) < len(found):
        raise ValueError(
            explain(
                expected=f"one file for each name in {folder}.",
                got="two whose names differ in the suffix only.",
                hint="Move one elsewhere.",
            )
        )
    if ordered and len(found) > 1:
        _check_order([_place(each, label) for each, label in labels.items()], list(labels.values()), folder)
    return {labels[each]: each for each in sorted(found, key=lambda each: _place(each, labels[each])[:2])}


def _place(path: Path, label: str) -> tuple[int, list[int], str]:
    """Where in training a checkpoint is: first, numbered, last or unknown; its numbers; and the text between them."""
    words = re.split(r"[^a-z]+", label.lower())
    numbers = [int(number) for number in re.findall(r"\d+", label)]
    state = path / "trainer_state.json"
    if path.is_dir() and state.is_file():
        step = json.loads(state.read_text()).get("global_step")
        if isinstance(step, int):
            return 1, [step], "global_step"
    if numbers:
        return 1, numbers, re.sub(r"\d+", "#", label)
    rank = 0 if any(word in _FIRST for word in words) else 2 if any(word in _LAST for word in words) else 3
    return rank, [], label


def _check_order(places: list[tuple[int, list[int], str]], labels: list[str], folder: Path) -> None:
    """Refuse names from which the order of training does not follow."""
    patterns = {text for rank, _, text in places if rank == 1}
    unknown = [label for label, (rank, _, _) in zip(labels, places, strict=True) if rank == 3]
    twice = len({(rank, *numbers) for rank, numbers, _ in places}) < len(places)
    if unknown or twice or len(patterns) > 1:
        raise ValueError(
            explain(
                expected=f"names in {folder} that say the order of training: numbers after one word, start and end.",
                got=f"{', '.join(sorted(unknown or labels)[:6])}.",
                hint="Rename them, move those that are no snapshots elsewhere, or pass a list or mapping in order.",
            )
        )
