"""A progress bar for everything that takes more than two seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeAlias

from tqdm.auto import tqdm

# None: a bar if stderr is a terminal. True: always. False: never. A function: called with (done, total) instead.
Progress: TypeAlias = bool | Callable[[int, int], None] | None


class Report(Protocol):
    """A function that adds an amount to the work done, and shows a note beside the bar."""

    def __call__(self, amount: int, note: str = "") -> None:
        """Add `amount` to the work done."""


@contextmanager
def progress_bar(progress: Progress, total: int, what: str, unit: str = "batch") -> Iterator[Report]:
    """Show progress while inside; gives the function to call with each amount of work done. `total` 0 means unknown.

    >>> calls = []
    >>> with progress_bar(lambda done, total: calls.append((done, total)), total=2, what="work") as report:
    ...     report(1)
    >>> calls
    [(1, 2)]
    """
    if callable(progress):
        done = 0

        def call(amount: int, note: str = "") -> None:
            nonlocal done
            done += amount
            progress(done, total)

        yield call
        return
    hidden = None if progress is None else not progress  # None: tqdm checks whether stderr is a terminal
    with tqdm(total=total or None, desc=what, unit=unit, disable=hidden, delay=2, leave=False) as bar:

        def update(amount: int, note: str = "") -> None:
            if note:
                bar.set_postfix_str(note, refresh=False)
            bar.update(amount)

        yield update
