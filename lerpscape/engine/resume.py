"""What a stopped measurement leaves on disk, so that the same call goes on where it was."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lerpscape.base.errors import PartialMismatch, explain
from lerpscape.base.saving import replacing
from lerpscape.engine.fingerprint import Fingerprint

Arrays = dict[str, NDArray[np.generic]]
# Seconds between writes: what a kill can cost.
INTERVAL = 10.0


class Partial:
    """Arrays of an unfinished measurement in one `.npz` file; without a path, nothing is kept.

    A file is only taken up by the measurement that wrote it, as its `fingerprint` shows. It is written to a second file
    first and then moved, so a kill at any moment leaves a whole file.

    Raises `PartialMismatch` for a file of another measurement or a damaged one.
    """

    def __init__(self, path: str | Path | None, fingerprint: Fingerprint | None = None) -> None:
        self.path = Path(path) if path is not None else None
        self._fingerprint = fingerprint
        self._written = time.monotonic()

    def load(self) -> Arrays | None:
        """The arrays kept by an earlier, stopped call of the same measurement; None where there are none."""
        if self.path is None or not self.path.exists():
            return None
        try:
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
                arrays = {name: kept[name] for name in kept.files}
            fingerprint = Fingerprint.from_json(str(arrays.pop("fingerprint")))
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise PartialMismatch(
                explain(
                    expected=f"{self.path} to hold a partial result.",
                    got=f"{error}.",
                    hint="Delete the file and start again.",
                )
            ) from error
        assert self._fingerprint is not None
        differences = self._fingerprint.differences(fingerprint)
        if differences:
            raise self.mismatch(differences)
        return arrays

    def mismatch(self, differences: list[str]) -> PartialMismatch:
        """The error for a file of another measurement, which differs in these."""
        more = f" and {len(differences) - 4} more" if len(differences) > 4 else ""
        return PartialMismatch(
            explain(
                expected=f"{self.path} to be the partial result of this measurement.",
                got=f"one of another: {', '.join(differences[:4])}{more} differ.",
                hint="Repeat the earlier call to finish it, or delete the file.",
            )
        )

    def due(self) -> bool:
        """Whether it is time to write again."""
        return self.path is not None and time.monotonic() - self._written > INTERVAL

    def save(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Write the arrays, whole or not at all."""
        if self.path is None:
            return
        text = self._fingerprint.to_json() if self._fingerprint else ""
        with replacing(self.path) as draft, draft.open("wb") as file:
            np.savez(file, **{"fingerprint": np.array(text), **arrays})  # type: ignore[arg-type]
        self._written = time.monotonic()
