"""Gauss length, against the double-backward trick and against a graph for the second derivative.

All ways measure the same networks, examples and α in one run, on one thread; what counts is the ratio. The double
backward is ours: the derivative along the line as a vector-Jacobian product differentiated by its vector (no forward
mode), and a third backward pass for z″. Writes benchmarks/results/gauss.json.

    python benchmarks/bench_gauss.py [--examples 2048] [--alphas 5] [--repeats 5]
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import lerpscape as ls
from lerpscape.batches import batch_of
from lerpscape.functional import undisturbed
from lerpscape.outputs import OutputsOnPath

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


def median_times(ways: dict[str, Callable[[float], object]], alphas: int, repeats: int) -> dict[str, float]:
    """Seconds per α of each way, the median over interleaved repeats after one to warm up."""
    grid = np.linspace(0.05, 0.95, alphas)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            for alpha in grid:
                way(float(alpha))
            if repeat:
                times[name].append((time.perf_counter() - began) / alphas)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=2048)
    parser.add_argument("--alphas", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    x = images(arguments.examples)
    batch = batch_of((x, torch.zeros(len(x))))
    results = []
    for kind in (nn.ReLU, nn.Tanh):
        model, line = network(kind)
        with undisturbed(model):
            first, second = (OutputsOnPath(model, line, batch, order=order) for order in (1, 2))
            forward, nested = (OutputsOnPath(model, line, batch, order=order) for order in (1, 2))
            forward.stack = nested.stack = None  # as for models that are no plain stack

            def reverse(order: int) -> Callable[[float], object]:
                def way(alpha: float) -> object:
                    with torch.enable_grad():
                        return double_backward(model, line, x, alpha, order)  # noqa: B023

                return way

            for alpha in (0.1, 0.6):  # the ways agree
                ours, theirs = second.at(alpha, [batch])[0], reverse(2)(alpha)
                for mine, other in zip(ours[1:], theirs, strict=True):  # type: ignore[call-overload]
                    assert (mine - other).norm() < 1e-3 * other.norm() + 1e-3, kind
            ways: dict[str, Callable[[float], object]] = {
                "outputs alone": lambda alpha: forward_only(model, line, x, alpha),  # noqa: B023
                "turning": lambda alpha: first.at(alpha, [batch]),  # noqa: B023
                "integral": lambda alpha: second.at(alpha, [batch]),  # noqa: B023
                "turning, forward mode": lambda alpha: forward.at(alpha, [batch]),  # noqa: B023
                "integral, nested forward mode": lambda alpha: nested.at(alpha, [batch]),  # noqa: B023
                "double backward": reverse(1),
                "triple backward": reverse(2),
            }
            seconds = median_times(ways, arguments.alphas, arguments.repeats)
        found = {
            "activation": kind.__name__,
            "seconds_per_alpha": {name: round(value, 4) for name, value in seconds.items()},
            "turning_speedup": round(seconds["double backward"] / seconds["turning"], 2),
            "integral_speedup": round(seconds["triple backward"] / seconds["integral"], 2),
            "forward_mode_speedup": round(seconds["double backward"] / seconds["turning, forward mode"], 2),
            "nested_forward_mode_speedup": round(
                seconds["triple backward"] / seconds["integral, nested forward mode"], 2
            ),
            "turning_in_forward_passes": round(seconds["turning"] / seconds["outputs alone"], 2),
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
        "machine": platform.machine(),
        "torch": torch.__version__,
        "results": results,
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    print(f"wrote {RESULTS}")


if __name__ == "__main__":
    main()
