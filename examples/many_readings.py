"""Is this curve monotonic, convex, without a barrier? Every published reading of one curve, and where they disagree.

    python examples/many_readings.py

First for losses that you measured yourself, then for a profile, which also knows the derivative and what half of its
grid would have said.
"""

import copy

import torch
from sklearn.datasets import load_digits
from torch import nn

import lerpscape as ls

LOSSES = [2.31, 2.30, 2.34, 2.42, 2.05, 1.20, 0.61, 0.34, 0.25, 0.22, 0.21]


def from_a_list() -> None:
    """Readings of numbers alone: nothing but numpy is imported."""
    print(f"largest rise {ls.max_rise(LOSSES):.3g}, largest step {ls.readings.max_step(LOSSES):.3g}")
    print(f"above the mean of both ends by {ls.barrier(LOSSES, 'mean'):.3g}")
    for rise in ls.rises(LOSSES):
        print(rise)


def from_a_profile() -> None:
    """All of them from a measured curve, with who uses each."""
    pixels, classes = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(classes)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
    start = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    profile = ls.profile(model, ls.Line(start, model), [(x, y)], alphas=101)
    readings = profile.readings(tolerance=1e-3)
    for reading in readings:
        values = [" undefined" if value is None else f"{value:10.4g}" for value in (reading.value, reading.half)]
        print(f"{reading.name:<20}{values[0]}  half the grid {values[1]}  {reading.unit:<5}{reading.source}")
    print(*readings.sentences(), sep="\n")


if __name__ == "__main__":
    from_a_list()
    from_a_profile()
