"""A hundred cases of the fuzzers from a fixed seed, and that what is broken on purpose is found."""

import re
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from fuzz.calls import Case
from fuzz.certificates import Proof
from fuzz.run import Counts, drawn, judged, report
from lerpscape.certificates.results import Certificate
from lerpscape.engine import measurement
from lerpscape.engine.accumulator import Accumulator
from lerpscape.engine.groups import Group

pytestmark = pytest.mark.filterwarnings("default")  # the judge looks at warnings itself

FIRST, BLOCK = 20_000, 10


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("block", range(10))
def test_a_hundred_cases(block):
    counts, outcomes = Counts(), [judged(drawn(FIRST + BLOCK * block + number)) for number in range(BLOCK)]
    for outcome in outcomes:
        counts.add(outcome)
    assert not counts.failed, "\n".join(report(outcome) for outcome in outcomes if outcome.failures)
    # A fuzzer that meets nothing but refusals tests nothing. Half of the cases have something special.
    assert counts.share_refused() <= 0.6


PLAIN = Case(1, blocks=("Linear ReLU Linear",), sizes="ragged", grid="thirteen")


def slightly_off(part, factor):
    original = Group.at

    def at(self, alpha, tell=None):
        found = original(self, alpha, tell)
        return replace(found, **{part: getattr(found, part) * factor}) if alpha == 0.5 else found

    return Group, "at", at


def slopes_kept_wrong():
    original = Accumulator.restored.__func__

    def restored(cls, points, arrays):
        return original(cls, points, arrays | {"unfinished_slopes": 0.99 * arrays["unfinished_slopes"]})

    return Accumulator, "restored", classmethod(restored)


BROKEN = {
    "loss": (lambda: slightly_off("losses", 1 + 1e-7), PLAIN, "^loss"),
    "derivative": (lambda: slightly_off("slopes", 1.02), PLAIN, "^derivative"),
    "resuming": (slopes_kept_wrong, replace(PLAIN, stop="by the keyboard", seed=2), "^resumed: another der"),
    "mode": (
        lambda: (measurement, "undisturbed", lambda model: nullcontext(model.eval())),
        replace(PLAIN, training=True),
        "^changed: .*training",
    ),
    "proof": (
        lambda: (Certificate, "loss_bounds", lambda self, alphas: (alphas * 0 + 1e9, alphas * 0 + 2e9)),
        Proof(1),
        "not in 1e",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_found(what, monkeypatch):
    mutant, case, words = BROKEN[what]
    assert not judged(case).failures
    monkeypatch.setattr(*mutant())
    failures = judged(case).failures
    assert any(re.search(words, each) for each in failures), failures
