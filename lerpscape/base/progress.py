"""A progress bar with the time left, on anything that takes more than two seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeAlias

from tqdm.auto import tqdm

# None: a bar on a terminal, nothing elsewhere. True, False: always, never. A function: (done, total).
Progress: TypeAlias = bool | Callable[[int, int], None] | None


class Report(Protocol):
    """What is called with the amount of work done, and a word to show beside the bar."""

    def __call__(self, amount: int, note: str = "") -> None:
        """Add to the work done."""


@contextmanager
def progress_bar(progress: Progress, total: int, what: str, unit: str = "batch") -> Iterator[Report]:
    """Give a function to call with the amount of work done; 0 for `total` means unknown.

    >>> seen = []
    >>> with progress_bar(lambda done, total: seen.append((done, total)), total=2, what="work") as report:
    ...     report(1)
    >>> seen
    [(1, 2)]
    """
    if callable(progress):
        done = 0

        def tell(amount: int, note: str = "") -> None:
            nonlocal done
            done += amount
            progress(done, total)

        yield tell
        return
    hidden = None if progress is None else not progress  # None: tqdm looks whether stderr is a terminal
    with tqdm(total=total or None, desc=what, unit=unit, disable=hidden, delay=2, leave=False) as bar:

        def advance(amount: int, note: str = "") -> None:
            if note:
                bar.set_postfix_str(note, refresh=False)
            bar.update(amount)

        yield advance
