"""How far do the outputs of a small ReLU network turn between initialisation and training?

Trains a 64-128-128-10 network on scikit-learn's digits and measures the Gauss length of 500 examples' output paths in
float64, by the published integral and by the turning of exact velocities, on finer and finer grids. The integral stands
still at well under half of what the turning grows to: the difference are the kinks of the ReLUs.

    python examples/gauss_digits.py            # a few minutes on one core
    python examples/gauss_digits.py --small    # a few seconds: fewer examples and points
"""

import argparse
import copy

import torch
from sklearn.datasets import load_digits
from torch import nn

import lerpscape as ls

EPOCHS, BATCH, LR, MOMENTUM = 30, 64, 0.01, 0.9


def trained(activation: type[nn.Module], seed: int) -> tuple[nn.Module, ls.Line, torch.Tensor, torch.Tensor]:
    """A network after training, the line from its initialisation, and the data."""
    pixels, classes = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels / 16), torch.tensor(classes)
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(64, 128), activation(), nn.Linear(128, 128), activation(), nn.Linear(128, 10)
    ).double()
    start = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x), generator=generator).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model, ls.Line(start, model), x, y


def extrapolated(levels: tuple[ls.geometry.Level, ...]) -> tuple[float, float]:
    """Where the means go if each halving adds the same share of the one before (Aitken), and how sure that is.

    The error is by how much the same reckoning from one grid earlier differs.
    """

    def limit(first: float, second: float, third: float) -> float:
        ratio = (third - second) / (second - first)
        return third + (third - second) * ratio / (1 - ratio)

    means = [level.mean for level in levels]
    last, before = limit(*means[-3:]), limit(*means[-4:-1])
    return last, abs(last - before)


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    examples, finest = (50, 400) if arguments.small else (500, 3200)
    print(f"digits, 64-128-128-10, SGD lr {LR} momentum {MOMENTUM}, {EPOCHS} epochs in batches of {BATCH}, ", end="")
    print(f"seed {arguments.seed}; {examples} examples, float64")
    for activation in (nn.ReLU,) if arguments.small else (nn.ReLU, nn.Tanh):
        model, line, x, y = trained(activation, arguments.seed)
        with torch.no_grad():
            accuracy = float((model(x).argmax(1) == y).double().mean())
        data = [(x[:examples], y[:examples])]
        print(f"\n{activation.__name__}, accuracy {100 * accuracy:.1f} %")
        print("method     points   mean (rad)   last halving   under π/2   max angle under π/2")
        for method, grids in (("integral", (50, 800)), ("turning", (50, 200, 800, 3200))):
            for points in grids:
                if points > finest:
                    continue
                found = ls.gauss_length(model, line, data, method=method, alphas=points, precision=None)
                print(
                    f"{method:<10}{points:>7}{found.mean:>13.4f}{found.mean_error:>15.2g}"
                    f"{100 * found.share_below_half_pi:>11.1f} %{100 * found.share_max_angle_below_half_pi:>18.1f} %"
                )
        refined = ls.gauss_length(model, line, data, alphas=51, precision=1e-12, budget=2 * finest + 1)
        print(f"refined    {refined.summary}")
        print("           " + "  ".join(f"{level.points}: {level.mean:.4f}" for level in refined.levels))
        limit, error = extrapolated(refined.levels)
        print(f"limit      {limit:.3f} ± {error:.3f} rad, if halvings go on adding the same share of the one before")


if __name__ == "__main__":
    main()
