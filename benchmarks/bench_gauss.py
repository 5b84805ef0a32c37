"""Gauss length, against the double-backward trick and against a graph for the second derivative.

All ways measure the same networks, examples and α in one run, on one thread; what counts is the ratio. The double
backward is ours: the derivative along the line as a vector-Jacobian product differentiated by its vector (no forward
mode), and a third backward pass for z″. Ours go over a grid of so many α, the others over three of them: each α costs
them the same. Writes benchmarks/results/gauss.json.

    python benchmarks/bench_gauss.py [--examples 2048] [--alphas 33] [--repeats 5]
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from machine import machine
from torch import Tensor, nn

import lerpscape as ls
from lerpscape.engine.batch_norm_statistics import BatchNormStatistics
from lerpscape.engine.model_on_path import ModelOnPath
from lerpscape.geometry.outputs import OutputsOnPath
from lerpscape.networks.batches import batch_of
from lerpscape.networks.undisturbed import undisturbed

RESULTS = Path(__file__).parent / "results" / "gauss.json"


def network(kind: type[nn.Module]) -> tuple[nn.Module, ls.Line]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 1024), kind(), nn.Linear(1024, 1024), kind(), nn.Linear(1024, 10))
    end = nn.Sequential(nn.Linear(784, 1024), kind(), nn.Linear(1024, 1024), kind(), nn.Linear(1024, 10))
    end.load_state_dict({name: value + 0.02 * torch.randn_like(value) for name, value in model.state_dict().items()})
    return model, ls.Line(model, end)


def images(count: int) -> Tensor:
    """MNIST from $LERPSCAPE_DATA where it is, else noise of the same shape (the cost is the same)."""
    folder = os.environ.get("LERPSCAPE_DATA")
    found = next(Path(folder).glob("MNIST/**/train-images-idx3-ubyte"), None) if folder else None
    if found is None:
        return torch.randn(count, 784, generator=torch.Generator().manual_seed(0))
    pixels = np.frombuffer(found.read_bytes(), np.uint8, offset=16, count=count * 784)
    return torch.tensor(pixels.reshape(count, 784) / 255.0, dtype=torch.float32)


def forward_only(model: nn.Module, line: ls.Line, x: Tensor, alpha: float) -> Tensor:
    with torch.no_grad():
        return torch.func.functional_call(model, line.at(alpha), (x,))


def double_backward(model: nn.Module, line: ls.Line, x: Tensor, alpha: float, order: int) -> list[Tensor]:
    """z′, and z″ where `order` is 2, by reverse mode alone."""
    t = torch.tensor(alpha, requires_grad=True)
    state = {name: line.start.tensors[name] + t * change for name, change in line.velocity(0).items()}
    z = torch.func.functional_call(model, state, (x,))
    found = [z]
    for step in range(order):
        dummy = torch.zeros_like(z, requires_grad=True)
        (back,) = torch.autograd.grad(found[-1], t, dummy, create_graph=True)
        (z_next,) = torch.autograd.grad(back, dummy, torch.ones_like(back), create_graph=step + 1 < order)
        found.append(z_next)
    return [each.detach() for each in found[1:]]


def timed(ways: dict[str, tuple[Callable[[], object], int]], repeats: int) -> dict[str, list[float]]:
    """Seconds per α of each way, with how many α it takes, in interleaved repeats after one to warm up."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, (way, alphas) in ways.items():
            began = time.perf_counter()
            way()
            if repeat:
                found[name].append((time.perf_counter() - began) / alphas)
    return found


def faster(seconds: dict[str, list[float]], slow: str, fast: str) -> list[float]:
    """How many times faster: median, least and most of the ratios of the same round."""
    ratios = [one / other for one, other in zip(seconds[slow], seconds[fast], strict=True)]
    return [round(each, 2) for each in (statistics.median(ratios), min(ratios), max(ratios))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=2048)
    parser.add_argument("--alphas", type=int, default=33)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    x = images(arguments.examples)
    batch = batch_of((x, torch.zeros(len(x))))
    results = []
    for kind in (nn.ReLU, nn.Tanh):
        model, line = network(kind)
        with undisturbed(model):
            on_path = ModelOnPath(model, line, None, None)
            at_work = on_path, BatchNormStatistics(on_path, None), batch
            first, second = (OutputsOnPath(*at_work, order=order) for order in (1, 2))
            forward, nested = (OutputsOnPath(*at_work, order=order) for order in (1, 2))
            forward.stack = nested.stack = None  # as for models that are no plain stack

            def reverse(order: int, alpha: float) -> list[Tensor]:
                with torch.enable_grad():
                    return double_backward(model, line, x, alpha, order)  # noqa: B023

            for alpha in (0.1, 0.6):  # the ways agree
                ours, theirs = second.at(alpha, [batch])[0], reverse(2, alpha)
                for mine, other in zip(ours[1:], theirs, strict=True):  # type: ignore[call-overload]
                    assert (mine - other).norm() < 1e-3 * other.norm() + 1e-3, kind

            grid, few = np.linspace(0, 1, arguments.alphas), np.linspace(0.1, 0.9, 3)

            def over(alphas: np.ndarray, at: Callable[[float], object]) -> tuple[Callable[[], object], int]:
                return lambda: [at(float(alpha)) for alpha in alphas], len(alphas)

            def swept(outputs: OutputsOnPath) -> tuple[Callable[[], object], int]:
                def way() -> None:
                    outputs.expect(grid, len(x))  # noqa: B023
                    for alpha in grid:  # noqa: B023
                        outputs.at(float(alpha), [batch])

                return way, len(grid)  # noqa: B023

            def whole(method: Literal["turning", "integral"]) -> tuple[Callable[[], object], int]:
                data = [(x, torch.zeros(len(x)))]
                asked: dict[str, Any] = {"method": method, "alphas": grid, "precision": None, "progress": False}  # noqa: B023
                return lambda: ls.gauss_length(model, line, data, **asked), len(grid)  # noqa: B023

            seconds = timed(
                {
                    "outputs alone": over(few, lambda alpha: forward_only(model, line, x, alpha)),  # noqa: B023
                    "turning": swept(first),
                    "integral": swept(second),
                    'gauss_length(method="turning")': whole("turning"),
                    'gauss_length(method="integral")': whole("integral"),
                    "turning, forward mode": over(few, lambda alpha: forward.at(alpha, [batch])),  # noqa: B023
                    "integral, nested forward mode": over(few, lambda alpha: nested.at(alpha, [batch])),  # noqa: B023
                    "double backward": over(few, lambda alpha: reverse(1, alpha)),
                    "triple backward": over(few, lambda alpha: reverse(2, alpha)),
                },
                arguments.repeats,
            )
        found = {
            "activation": kind.__name__,
            "seconds_per_alpha": {name: round(statistics.median(each), 4) for name, each in seconds.items()},
            "times_faster": {
                f"{fast} against {slow}": faster(seconds, slow, fast)
                for slow, fast in (
                    ("double backward", "turning"),
                    ("double backward", 'gauss_length(method="turning")'),
                    ("double backward", "turning, forward mode"),
                    ("triple backward", "integral"),
                    ("triple backward", 'gauss_length(method="integral")'),
                    ("triple backward", "integral, nested forward mode"),
                )
            },
            "turning_in_forward_passes": faster(seconds, "turning", "outputs alone"),
        }
        results.append(found)
        print(json.dumps(found, indent=1))
    record = {
        "network": "784-1024-1024-10",
        "examples": arguments.examples,
        "alphas": arguments.alphas,
        "repeats": arguments.repeats,
        "threads": torch.get_num_threads(),
        "dtype": "float32",
        "machine": machine(),
        "torch": torch.__version__,
        "results": results,
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    print(f"wrote {RESULTS}")


if __name__ == "__main__":
    main()
