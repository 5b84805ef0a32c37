"""One case measured and judged; many cases counted by kind."""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lerpscape as ls
from fuzz import data, losses, oracle
from fuzz.calls import GRIDS, Case, drawn_case, plainer
from fuzz.certificates import Proof, check_proof, drawn_proof
from fuzz.unchanged import Remembered
from lerpscape.base.errors import LerpscapeError


@dataclass
class Outcome:
    """What became of a case: `failures` says what is wrong, `refusal` and `withheld` are the package's own words."""

    case: Case | Proof
    failures: list[str] = field(default_factory=list)
    refusal: str | None = None
    withheld: str | None = None
    loop_fails: bool = False


class Stopped(Exception):
    """Raised in the middle of a measurement."""


def drawn(seed: int) -> Case | Proof:
    """The case of a seed; one in five is a certificate."""
    return drawn_proof(seed) if seed % 5 == 4 else drawn_case(seed)


def judged(case: Case | Proof) -> Outcome:
    """Measure a case and compare with the loop, or prove it and compare with rational arithmetic."""
    outcome = Outcome(case)
    torch.manual_seed(case.seed)
    with warnings.catch_warnings(record=True) as caught, tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("always")
        try:
            if isinstance(case, Proof):
                outcome.failures, outcome.refusal, _ = check_proof(case)
            else:
                _judge(case, outcome, Path(folder) / "work.partial")
        except Exception as error:  # of the judge itself: nobody should have to guess which case it was
            outcome.failures.append(f"the judge fails: {type(error).__name__}: {error}")
            if "--debug" in sys.argv:
                raise
    outcome.failures += [f"warns: {each.message}" for each in caught if "Please report" in str(each.message)]
    return outcome


def _judge(case: Case, outcome: Outcome, file: Path) -> None:
    try:
        model, path, container = _owned(case)
    except LerpscapeError as error:  # no line between such tensors has a meaning
        _judge_error(case, outcome, error)
        return
    # A buffer that is filled again by each pass has no value of its own, and a loader draws a seed.
    kept = container if isinstance(container, (list, tuple)) else None
    owned = Remembered(model, path, kept)
    profile, error = _measured(case, model, path, container)
    outcome.failures += [f"changed: {name}" for name in owned.changes()[:3]]
    if error is not None:
        _judge_error(case, outcome, error)
        if not isinstance(error, (LerpscapeError, ValueError, TypeError)):
            return
    again, other_error = _measured(case, *_owned(case))
    if (error is None) != (other_error is None):
        outcome.failures.append(f"not the same twice: {other_error or error}")
    if profile is None or again is None:
        return
    outcome.failures += [f"not the same twice: {name}" for name in _different(profile, again)]
    _judge_numbers(case, outcome, profile)
    if case.stop and case.grid != "adaptive":
        _judge_resumed(case, outcome, profile, file)


def _owned(case: Case) -> tuple[Any, Any, Any]:
    model = case.model()
    model.train(case.training)
    model.requires_grad_(not case.frozen)
    return model, case.line(), data.CONTAINERS[case.container](case.batches())


def _measured(case: Case, model: Any, path: Any, container: Any, **more: Any) -> tuple[ls.Profile | None, Any]:
    arguments = {
        "loss": losses.LOSSES[case.loss]().passed,
        "alphas": GRIDS[case.grid],
        "derivative": case.derivative,
        "batch_norm": case.batch_norm(),
        "workers": case.workers,
        "progress": False,
        "dtype": getattr(torch, case.asked_dtype) if case.asked_dtype else None,
    }
    try:
        return ls.profile(model, path, container, **(arguments | more)), None
    except Exception as error:
        return None, error


def _judge_error(case: Case, outcome: Outcome, error: Exception) -> None:
    text = str(error)
    if isinstance(error, (LerpscapeError, ValueError, TypeError)) and text.startswith("expected:") and "\ntry:" in text:
        outcome.refusal = text.splitlines()[1].removeprefix("got: ")
        if not case.special:
            outcome.failures.append(f"refused, though nothing is special: {outcome.refusal}")
        return
    try:
        oracle.Loop(case).curve([0.0, 0.4, 1.0])
    except Exception:
        outcome.loop_fails = True
    else:
        outcome.failures.append(f"raises {type(error).__name__}: {text.splitlines()[0] if text else ''}")


def _judge_numbers(case: Case, outcome: Outcome, profile: ls.Profile) -> None:
    alphas = profile.alphas[:: max(1, len(profile.alphas) // 13)]
    chosen = np.isin(profile.alphas, alphas)
    right = oracle.curves(case, alphas)
    allowed = oracle.tolerance(case, alphas, right[0])
    off = [np.abs(profile.loss[chosen] - truth) for truth in right]
    if not any(np.all((each <= allowed) | ~np.isfinite(right[0])) for each in off):
        worst = int(np.nanargmax(off[0]))
        found, truth = profile.loss[chosen][worst], right[0][worst]
        outcome.failures.append(f"loss {found:.9g} for {truth:.9g} at α = {alphas[worst]:.4g}; {profile.how['plan']}")
        return
    if not case.derivative:
        return
    if profile.derivative is None:
        outcome.withheld = str(profile.derivative_reason).splitlines()[0]
        return
    alphas = alphas[:: max(1, len(alphas) // 4)]
    bounds = oracle.slope_bounds(case, alphas)
    if bounds is None:
        return
    low, high = bounds
    slopes = profile.derivative[np.isin(profile.alphas, alphas)]
    wrong = ~((low <= slopes) & (slopes <= high)) & np.isfinite(low + high)
    if wrong.any():
        worst = int(np.flatnonzero(wrong)[0])
        outcome.failures.append(
            f"derivative {slopes[worst]:.6g} for {low[worst]:.6g} to {high[worst]:.6g} at α = {alphas[worst]:.4g}"
        )


def _judge_resumed(case: Case, outcome: Outcome, whole: ls.Profile, file: Path) -> None:
    """A first try that ends too early, or is of something else; then the same call on the same file."""
    model, path, container = _owned(case)
    owned = Remembered(model, path, container if isinstance(container, (list, tuple)) else None)
    if case.stop and case.stop.startswith("after another"):
        network = case.stop == "after another network"
        other = replace(case, gain=0.5) if network else replace(case, loss=_sibling(case.loss))
        _measured(other, *_owned(other), partial=file)
    else:
        left = np.random.default_rng(case.seed).integers(1, 40)
        with suppress(KeyboardInterrupt):
            _measured(case, model, path, container, partial=file, progress=_raises(left, case.stop))
    outcome.failures += [f"changed when stopped: {name}" for name in owned.changes()[:3]]
    resumed, error = _measured(case, model, path, container, partial=file)
    if resumed is not None:
        outcome.failures += [f"resumed: another {name}" for name in _different(whole, resumed)]
    elif not isinstance(error, ls.PartialMismatch) or not case.stop.startswith("after another"):
        outcome.failures.append(f"not resumed: {type(error).__name__}: {error}")


def _sibling(loss: str) -> str:
    return {"closure": "another closure", "another closure": "closure"}.get(loss, loss)


def _raises(left: int, stop: str | None) -> Any:
    def progress(done: int, total: int) -> None:
        if done >= left:
            raise KeyboardInterrupt if stop == "by the keyboard" else Stopped

    return progress


def _different(one: ls.Profile, other: ls.Profile) -> list[str]:
    names = ("alphas", "loss", "accuracy", "derivative", "covariance")
    parts = [(name, getattr(one, name), getattr(other, name)) for name in names]
    return [
        name
        for name, mine, yours in parts
        if (mine is None) != (yours is None) or (mine is not None and not np.array_equal(mine, yours, equal_nan=True))
    ]


def smallest(case: Case | Proof, seconds: float = 20.0) -> Case | Proof:
    """A plainer case that fails as well, by making one thing after the other plain."""
    until, going = time.monotonic() + seconds, True
    while going and time.monotonic() < until:
        going = False
        for candidate in plainer(case):
            if judged(candidate).failures:
                case, going = candidate, True
                break
    return case


class Counts:
    """How often each kind was tried, refused, withheld, and failed."""

    def __init__(self) -> None:
        self.cases = 0
        self.failed: list[int] = []
        self.kinds: dict[str, Counter[str]] = defaultdict(Counter)
        self.messages: Counter[str] = Counter()

    def add(self, outcome: Outcome) -> None:
        self.cases += 1
        facts = {
            "refused": outcome.refusal is not None,
            "withheld": outcome.withheld is not None,
            "failed": bool(outcome.failures),
            "loop fails": outcome.loop_fails,
        }
        for kind in ["all", *outcome.case.tags()]:
            self.kinds[kind]["cases"] += 1
            self.kinds[kind].update(name for name, holds in facts.items() if holds)
        for what, message in (("refused", outcome.refusal), ("withheld", outcome.withheld)):
            if message:
                self.messages[f"{what}: {''.join('#' if c.isdigit() else c for c in message)[:100]}"] += 1
        if outcome.failures:
            self.failed.append(outcome.case.seed)

    def share_refused(self) -> float:
        return self.kinds["all"]["refused"] / max(self.cases, 1)

    def table(self) -> str:
        columns = ("cases", "refused", "withheld", "loop fails", "failed")
        lines = [f"{'kind':44}" + "".join(f"{name:>11}" for name in columns)]
        for kind, counts in sorted(self.kinds.items()):
            lines.append(f"{kind:44}" + "".join(f"{counts[name] or '·':>11}" for name in columns))
        lines += ["", *(f"{count:5}  {message}" for message, count in self.messages.most_common())]
        return "\n".join(lines)


def report(outcome: Outcome) -> str:
    """What fails, and the command that runs it again."""
    lines = [f"case {outcome.case.seed} fails: {outcome.case}", *(f"    {each}" for each in outcome.failures)]
    return "\n".join([*lines, f"    again: PYTHONPATH=tests python -m fuzz --case {outcome.case.seed}"])
