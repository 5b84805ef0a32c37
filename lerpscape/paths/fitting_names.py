"""Fitting the names of one set of tensors to those of another, which may stand under another prefix."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from lerpscape.paths.checkpoints import WRAPPER_PREFIXES


def fitting_prefixes(names: Collection[str], others: Collection[str]) -> tuple[str, str]:
    """The prefixes to take off both sets of names so that most names are the same; both "" where they are already.

    A prefix is taken off only where every name of a set has it. Of the prefixes of wrappers, some names may lack it: a
    head that is tied to the wrapped module.

    >>> fitting_prefixes(["model.0.weight", "model.0.bias"], ["0.weight", "0.bias"])
    ('model.', '')
    >>> fitting_prefixes(["model.embed.weight"], ["model.embed.weight", "head.weight"])
    ('', '')
    """
    given, wanted = set(names), set(others)
    if given == wanted:
        return "", ""
    best, most = ("", ""), len(given & wanted)
    for one in _prefixes(given):
        left = {name.removeprefix(one) for name in given}
        for other in _prefixes(wanted):
            right = {name.removeprefix(other) for name in wanted}
            if len(left) == len(given) and len(right) == len(wanted) and len(left & right) > most:
                best, most = (one, other), len(left & right)
    return best


def prefixes_that_fit(names: Collection[str], wanted: Collection[str]) -> list[str]:
    """Prefixes under which part of the names are those wanted: candidates for `checkpoint(..., prefix=)`.

    >>> prefixes_that_fit(["model.w", "ema.w", "criterion.pos_weight"], ["w"])
    ['model.', 'ema.']
    """
    inside: dict[str, set[str]] = {}
    for name in names:
        for prefix in _starts(name):
            inside.setdefault(prefix, set()).add(name.removeprefix(prefix))
    return [prefix for prefix, rest in inside.items() if len(rest & set(wanted)) >= max(len(wanted) / 2, 1)]


def prefix_hint(names: Collection[str], wanted: Collection[str]) -> str | None:
    """What to do where the wanted names are part of these, under a prefix; None where they are not."""
    fitting = prefixes_that_fit(names, wanted)
    shown = " or ".join(f"prefix={prefix!r}" for prefix in fitting[:4])
    return f"Take those under one prefix: checkpoint(..., {shown}), or --prefix." if fitting else None


def _prefixes(names: Iterable[str]) -> list[str]:
    """Prefixes that may be taken off, the shortest first."""
    names = list(names)
    common = list(_starts(names[0])) if names else []
    common = [start for start in common if all(name.startswith(start) for name in names)]
    some = [each for each in WRAPPER_PREFIXES if any(name.startswith(each) for name in names)]
    return list(dict.fromkeys(["", *common, *some]))


def _starts(name: str) -> Iterable[str]:
    """The starts of a name that end in a dot."""
    parts = name.split(".")
    return (f"{'.'.join(parts[:count])}." for count in range(1, len(parts)))
