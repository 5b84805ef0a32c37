"""What a stopped measurement leaves on disk, so that the same call goes on where it was."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lerpscape.base.errors import PartialMismatch, explain
from lerpscape.base.saving import check_writable, replacing

Arrays = dict[str, NDArray[np.generic]]
# Seconds between writes: what a kill can cost.
INTERVAL = 10.0


class Partial:
    """Arrays of an unfinished measurement in one `.npz` file; without a path, nothing is kept.

    A file is only taken up by the measurement that wrote it: `fingerprint` names the request. It is written to a
    second file first and then moved, so a kill at any moment leaves a whole file.

    Raises `PartialMismatch` for a file of another measurement or a damaged one, `OSError` where the folder cannot be
    written, before anything is computed.
    """

    def __init__(self, path: str | Path | None, fingerprint: str = "") -> None:
        self.path = Path(path) if path is not None else None
        self._fingerprint = fingerprint
        self._written = time.monotonic()

    def load(self) -> Arrays | None:
        """The arrays kept by an earlier, stopped call of the same measurement; None where there are none."""
        if self.path is None:
            return None
        if not self.path.exists():
            check_writable(self.path)
            return None
        try:
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
                arrays = {name: kept[name] for name in kept.files}
            fingerprint = str(arrays.pop("fingerprint"))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise PartialMismatch(
                explain(
                    expected=f"{self.path} to hold a partial result.",
                    got=f"{error}.",
                    hint="Delete the file and start again.",
                )
            ) from error
        if fingerprint != self._fingerprint:
            raise PartialMismatch(
                explain(
                    expected=f"{self.path} to be the partial result of this measurement ({self._fingerprint}).",
                    got=f"one of another ({fingerprint}): ends, data, α, loss or policy differ.",
                    hint="Repeat the earlier call to finish it, or delete the file.",
                )
            )
        return arrays

    def due(self) -> bool:
        """Whether it is time to write again."""
        return self.path is not None and time.monotonic() - self._written > INTERVAL

    def save(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Write the arrays, whole or not at all."""
        if self.path is None:
            return
        with replacing(self.path) as draft, draft.open("wb") as file:
            np.savez(file, **{"fingerprint": np.array(self._fingerprint), **arrays})  # type: ignore[arg-type]
        self._written = time.monotonic()
