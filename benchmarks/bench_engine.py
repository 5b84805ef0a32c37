"""Many α: the engine against the loops people write and the libraries they use, part by part.

usage: python benchmarks/bench_engine.py [PART ...] [--rounds 5] [--examples 3000]

Parts: mlp, large, large_256, widths, growth, resnet, derivative, adaptive, workers, memory; all of them
without an argument. In each part every contender measures the same networks, examples and α in interleaved rounds in
one process on one thread (but for workers); ratios are of the same round, and the median and the range over rounds are
written. Images are MNIST's where LERPSCAPE_DATA names a folder with MNIST/raw, else random pixels; CIFAR-sized images
are random. Each part is merged into benchmarks/results/engine.json with the machine's measured peak.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from loops import loop
from networks import fully_connected, moved, residual
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import lerpscape as ls

RESULTS = Path(__file__).parent / "results" / "engine.json"
Batches = list[tuple[Tensor, Tensor]]
BOUND = "its convolutions alone, channels last"


def images(count: int) -> tuple[Tensor, Tensor, str]:
    folder = os.environ.get("LERPSCAPE_DATA")
    found = next(Path(folder).glob("MNIST/**/train-images-idx3-ubyte"), None) if folder else None
    if found is None:
        return torch.rand(count, 784), torch.randint(0, 10, (count,)), "random pixels"
    pixels = np.frombuffer(found.read_bytes(), np.uint8, offset=16, count=count * 784).reshape(count, 784)
    labels = np.frombuffer(found.with_name("train-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8, count=count)
    return torch.tensor(pixels / 255.0, dtype=torch.float32), torch.tensor(labels.astype(np.int64)), "MNIST"


class Pictures(Dataset[tuple[Tensor, Tensor]]):
    """Images kept as bytes, each turned into floats when it is asked for: torchvision's MNIST with ToTensor does so."""

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.bytes, self.targets = (inputs * 255).round().to(torch.uint8), targets

    def __len__(self) -> int:
        return len(self.bytes)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.bytes[index].to(torch.float32).div(255), self.targets[index]


def batches(inputs: Tensor, targets: Tensor, size: int = 512) -> Batches:
    return list(zip(inputs.split(size), targets.split(size), strict=True))


def plain_loop(start: nn.Module, end: nn.Module, data: Any, alphas: Any, examples: int) -> np.ndarray:
    """What everybody writes: weights at α into the module, mean loss over the batches."""
    model, losses = deepcopy(start).eval(), []
    first, last = start.state_dict(), end.state_dict()
    with torch.no_grad():
        for alpha in alphas:
            model.load_state_dict({k: torch.lerp(first[k], last[k], float(alpha)) for k in first})
            losses.append(sum(float(F.cross_entropy(model(x), y, reduction="sum")) for x, y in data) / examples)
    return np.array(losses)


def interleaved(
    ways: dict[str, Callable[[], Any]], rounds: int, reference: str, curve: Callable[[Any], Any] | None = None
) -> dict[str, Any]:
    """Seconds and ratios of each way, after one round to warm up, in which all must give the same curve."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    curves = {name: way() for name, way in ways.items()}
    found: dict[str, Any] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - began)
    for name, values in seconds.items():
        ratios = [base / value for value, base in zip(values, seconds[reference], strict=True)]
        found[name] = {
            "median_seconds": round(statistics.median(values), 4),
            "times_faster": round(statistics.median(ratios), 3),
            "times_faster_range": [round(min(ratios), 3), round(max(ratios), 3)],
        }
        if curve is not None:
            difference = float(np.abs(curve(curves[name]) - curve(curves[reference])).max())
            found[name]["largest_difference"] = difference
        print(f"  {name:46s} {found[name]}", flush=True)
    return found


def losses(result: Any) -> np.ndarray:
    return np.asarray(result.loss if isinstance(result, ls.Profile) else getattr(result, "losses", result))


def peak() -> float:
    """Largest float32 multiply-and-add rate seen in a few large matrix products, GFLOP/s."""
    a, b, out = torch.rand(2048, 1024), torch.rand(1024, 1024), torch.empty(2048, 1024)
    best = 0.0
    for _ in range(30):
        began = time.perf_counter()
        torch.mm(a, b, out=out)
        best = max(best, 2 * 2048 * 1024 * 1024 / (time.perf_counter() - began) / 1e9)
    return best


def libraries(start: nn.Module, end: nn.Module, x: Tensor, y: Tensor, points: int) -> dict[str, Callable[[], Any]]:
    """Libraries for the same curve; both take a single batch. Those that are not installed are named and left out."""
    found: dict[str, Callable[[], Any]] = {}
    try:
        import loss_landscapes
        import loss_landscapes.metrics

        metric = loss_landscapes.metrics.Loss(F.cross_entropy, x, y)
        found["loss-landscapes 3.0.6, one batch"] = lambda: loss_landscapes.linear_interpolation(
            deepcopy(start), deepcopy(end), metric, points, deepcopy_model=True
        )
    except ImportError:
        print("loss-landscapes is not installed: left out", file=sys.stderr)
    try:
        import nngeom

        def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            return F.cross_entropy(model(batch[0]), batch[1])

        found["nngeom 0.2.0, one batch"] = lambda: (
            nngeom.linear_interpolation(
                nngeom.Model(deepcopy(start), loss_fn=loss),
                nngeom.Model(deepcopy(end), loss_fn=loss),
                (x, y),
                steps=points,
            ).losses
        )
    except ImportError:
        print("nngeom is not installed: left out", file=sys.stderr)
    return found


def left_over(widths: tuple[int, ...], examples: int, points: int) -> float:
    """GFLOP that remain when the first layer's products are shared: both ends plain, the rest without it.

    A sweep over the second layer makes fewer: the share of the peak may then be more than all of it.
    """
    sizes = (784, *widths, 10)
    layers = [2e-9 * examples * inner * outer for inner, outer in pairwise(sizes)]
    return points * sum(layers[1:]) + 4 * layers[0]


def mlp(options: argparse.Namespace, widths: tuple[int, ...] = (1024, 1024), peers: bool = True) -> dict[str, Any]:
    count, points = options.examples, 50
    x, y, what = images(count)
    data = batches(x, y)
    loader = DataLoader(TensorDataset(x, y), batch_size=512)
    pictures = DataLoader(Pictures(x, y), batch_size=512)
    start = fully_connected(784, *widths, 10)
    end = moved(start)
    line, alphas = ls.Line(start, end), np.linspace(0, 1, points)
    ways: dict[str, Callable[[], Any]] = {
        "plain loop over tensors": lambda: plain_loop(start, end, data, alphas, count),
        "lerpscape": lambda: ls.profile(start, line, data, alphas=points, derivative=False),
    }
    if count < 10_000 and len(widths) == 2:
        ways["plain loop over a DataLoader"] = lambda: plain_loop(start, end, loader, alphas, count)
        ways["plain loop over a DataLoader of bytes"] = lambda: plain_loop(start, end, pictures, alphas, count)
    if peers:
        ways |= libraries(start, end, x, y, points)
    curves = interleaved(
        {name: way for name, way in ways.items() if "loss-landscapes" not in name}, options.rounds, *REFERENCE
    )
    if any("loss-landscapes" in name for name in ways):  # it never evaluates α = 0: another grid, the same work
        name = next(name for name in ways if "loss-landscapes" in name)
        pair = {"plain loop over tensors": ways["plain loop over tensors"], name: ways[name]}
        curves |= {name: interleaved(pair, max(options.rounds - 2, 1), REFERENCE[0])[name]}
    fastest = peak()
    share = left_over(widths, count, points) / curves["lerpscape"]["median_seconds"] / fastest
    return {
        "network": "-".join(map(str, (784, *widths, 10))),
        "examples": count,
        "points": points,
        "data": what,
        "peak_gflops": round(fastest, 1),
        "share_of_peak_on_arithmetic_left": round(share, 3),
        "ways": curves,
    }


REFERENCE = ("plain loop over tensors", losses)


def large(options: argparse.Namespace, widths: tuple[int, ...] = (1024, 1024)) -> dict[str, Any]:
    """All 60,000 images, a trained network, the libraries left out; a round takes minutes if it is a wide one.

    With adaptive points, the difference is that of the interpolated curve at the loop's 50 points.
    """
    from lerpscape.engine.adaptive import interpolated

    x, y, what = images(60_000)
    data = batches(x, y)
    start, end = trained(x[:12_000], y[:12_000], widths)
    line, grid = ls.Line(start, end), np.linspace(0, 1, 50)
    evaluations = 0

    def adaptive() -> np.ndarray:
        nonlocal evaluations
        found = ls.profile(start, line, data, alphas="adaptive", derivative=False)
        evaluations = len(found.alphas)
        return interpolated(found.alphas, found.loss, None, grid)

    ways: dict[str, Callable[[], Any]] = {
        REFERENCE[0]: lambda: plain_loop(start, end, data, grid, len(x)),
        "lerpscape": lambda: ls.profile(start, line, data, alphas=grid, derivative=False).loss,
        "lerpscape, adaptive points": adaptive,
    }
    found = interleaved(ways, options.rounds, REFERENCE[0], np.asarray)
    found["lerpscape, adaptive points"]["evaluations"] = evaluations
    name = "-".join(map(str, (784, *widths, 10)))
    return {"network": f"{name}, trained", "examples": len(x), "data": what, "ways": found}


def large_256(options: argparse.Namespace) -> dict[str, Any]:
    """The same with a network a quarter as wide."""
    return large(options, (256, 256))


def trained(x: Tensor, y: Tensor, widths: tuple[int, ...], epochs: int = 1) -> tuple[nn.Module, nn.Module]:
    """A network before and after training by SGD, batches of 64, rate 0.1."""
    start = fully_connected(784, *widths, 10)
    end = deepcopy(start)
    optimizer = torch.optim.SGD(end.parameters(), lr=0.1)
    for _ in range(epochs):
        for inputs, labels in batches(x, y, 64):
            optimizer.zero_grad()
            F.cross_entropy(end(inputs), labels).backward()
            optimizer.step()
    return start, end


def growth(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds and ratios of 784-256-256-10 as points, examples and layers become more."""
    usual = {"points": 50, "examples": 3000, "layers": 2}
    steps = {"points": (5, 10, 25, 50, 100, 200), "examples": (300, 1000, 3000, 10_000), "layers": (1, 2, 4, 8)}
    found: dict[str, Any] = {}
    for name, values in steps.items():
        for value in values:
            sizes = usual | {name: value}
            x, y, _ = images(sizes["examples"])
            data = batches(x, y)
            start = fully_connected(784, *[256] * sizes["layers"], 10)
            end = moved(start)
            line, alphas = ls.Line(start, end), np.linspace(0, 1, sizes["points"])
            ways: dict[str, Callable[[], Any]] = {
                REFERENCE[0]: lambda s=start, e=end, d=data, a=alphas, n=sizes["examples"]: plain_loop(s, e, d, a, n),
                "lerpscape": lambda s=start, w=line, d=data, a=alphas: ls.profile(s, w, d, alphas=a, derivative=False),
            }
            print(f"  {name} = {value}")
            found.setdefault(name, {})[value] = interleaved(ways, options.rounds, *REFERENCE)
    return {"network": "784-256-256-10", "otherwise": usual, "found": found}


def widths(options: argparse.Namespace) -> list[dict[str, Any]]:
    return [mlp(options, each, peers=False) for each in ((256, 256), (128,), (16,), (256,) * 4)]


def convolutions_alone(start: nn.Module, line: ls.Line, x: Tensor, alphas: np.ndarray) -> None:
    """One convolution of a network after the other, with channels last, 32 images at a time."""
    layers = [(name, each) for name, each in start.named_modules() if isinstance(each, nn.Conv2d)]
    pieces = [each.contiguous(memory_format=torch.channels_last) for each in x.split(32)]
    with torch.no_grad():
        for alpha in alphas:
            state = line.at(float(alpha))
            own = [
                (
                    state[f"{name}.weight"].contiguous(memory_format=torch.channels_last),
                    state[f"{name}.bias"],
                    each.stride,
                )
                for name, each in layers
            ]
            for piece in pieces:
                for weight, bias, stride in own:
                    piece = F.conv2d(piece, weight, bias, stride, 1)


def resnet(options: argparse.Namespace) -> list[dict[str, Any]]:
    count, points, results = 128, 50, []
    x, y = torch.randn(count, 3, 32, 32), torch.randint(0, 10, (count,))
    data = batches(x, y, 128)
    for batch_norm in (False, True):
        start = residual(batch_norm)
        end = moved(start)
        line, alphas = ls.Line(start, end), np.linspace(0, 1, points)

        ways: dict[str, Callable[[], Any]] = {
            "module loop, NCHW": partial(loop, start, end, data, "cross_entropy", alphas, count, batch_norm)
        }
        policies: dict[str, Any] = {"lerpscape": None}
        if batch_norm:
            policies = {
                "lerpscape, exact statistics": ls.Recalibrate(data),
                "lerpscape, pooled statistics": ls.Recalibrate(data, pooled=True),
            }
        for name, policy in policies.items():
            ways[name] = lambda policy=policy, line=line, start=start: ls.profile(
                start, line, data, alphas=points, derivative=False, batch_norm=policy
            )
        found = interleaved(ways, options.rounds, "module loop, NCHW", losses)
        if not batch_norm:  # what the loop could gain if all but the convolutions were free
            own = partial(convolutions_alone, start, line, x, alphas)
            bound = interleaved(
                {"module loop, NCHW": ways["module loop, NCHW"], BOUND: own}, options.rounds, "module loop, NCHW"
            )
            found[BOUND] = bound[BOUND]
        results.append({"batch_norm": batch_norm, "examples": count, "points": points, "ways": found})
    return results


def derivative(options: argparse.Namespace) -> dict[str, Any]:
    count, points = 2048, 12
    x, y, what = images(count)
    data = batches(x, y)
    start = fully_connected(784, 1024, 1024, 10)
    line = ls.Line(start, moved(start))
    ways = {
        "loss and accuracy": lambda: ls.profile(start, line, data, alphas=points, derivative=False),
        "with derivative": lambda: ls.profile(start, line, data, alphas=points),
    }
    found = interleaved(ways, options.rounds, "loss and accuracy", losses)
    return {"network": "784-1024-1024-10", "examples": count, "points": points, "data": what, "ways": found}


def adaptive(options: argparse.Namespace) -> dict[str, Any]:
    from lerpscape.engine.adaptive import interpolated

    count = 6000
    x, y, what = images(count)
    data = batches(x, y)
    start, end = trained(x, y, (1024, 1024), epochs=4)
    line, alphas = ls.Line(start, end), np.linspace(0, 1, 50)
    fine = ls.profile(start, line, data, alphas=201, derivative=False)
    ways: dict[str, Callable[[], Any]] = {
        "plain loop over tensors": lambda: plain_loop(start, end, data, alphas, count),
        "adaptive, loss": lambda: ls.profile(start, line, data, alphas="adaptive", derivative=False),
        "adaptive, loss and derivative": lambda: ls.profile(start, line, data, alphas="adaptive"),
    }
    found = interleaved(ways, options.rounds, "plain loop over tensors")
    for name in list(ways)[1:]:
        one = ways[name]()
        curve = interpolated(one.alphas, one.loss, one.derivative, fine.alphas)
        found[name]["evaluations"] = len(one.alphas)
        found[name]["error_over_range"] = float(np.abs(curve - fine.loss).max() / np.ptp(fine.loss))
        print(f"  {name}: {found[name]['evaluations']} evaluations, error {found[name]['error_over_range']:.1e}")
    return {"network": "784-1024-1024-10, trained", "examples": count, "data": what, "ways": found}


PRODUCTS = """
import time
import torch
torch.set_num_threads(1)
left, right, into = torch.rand(512, 1024), torch.rand(1024, 1024), torch.empty(512, 1024)
began, done = time.perf_counter(), 0
while time.perf_counter() - began < 3:
    torch.mm(left, right, out=into)
    done += 1
print(done)
"""


def products_at_once(processes: int) -> int:
    """How many products so many processes make in three seconds, all together."""
    asked = [sys.executable, "-c", PRODUCTS]
    running = [subprocess.Popen(asked, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    return sum(int(each.communicate()[0]) for each in running)


def workers(options: argparse.Namespace) -> dict[str, Any]:
    """Two processes against one, beside what two processes gain that do nothing but multiply."""
    count, points = 16384, 12
    x, y, what = images(count)
    data = batches(x, y)
    start = fully_connected(784, 1024, 1024, 10)
    line = ls.Line(start, moved(start))
    ways = {
        f"workers={n}": lambda n=n: ls.profile(start, line, data, alphas=points, derivative=False, workers=n)
        for n in (1, 2)
    }
    found = interleaved(ways, options.rounds, "workers=1", losses)
    gained = sorted(products_at_once(2) / products_at_once(1) for _ in range(options.rounds))
    limit = {"median": round(statistics.median(gained), 3), "range": [round(gained[0], 3), round(gained[-1], 3)]}
    print(f"  products alone, two processes against one: {limit}")
    about = {"network": "784-1024-1024-10", "examples": count, "points": points, "data": what}
    return about | {"ways": found, "products_alone": limit}


MEMORY = """
import sys
from pathlib import Path
import numpy as np
import torch
import lerpscape as ls
from lerpscape.engine.relu_sweep import NextLayer, ReLUSweep
from lerpscape.engine.shared_layers import EndpointOutputs
from networks import fully_connected, moved
torch.set_num_threads(1)
start = fully_connected(784, 1024, 1024, 10)
line = ls.Line(start, moved(start))
x, y = torch.rand(20_000, 784), torch.randint(0, 10, (20_000,))
data = list(zip(x.split(512), y.split(512)))
def most():  # not ru_maxrss, which begins with what the parent had
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
derivative = sys.argv[2] == "derivative"
ls.profile(start, line, data[:1], alphas=5, derivative=derivative)
first = most()
block = EndpointOutputs(torch.rand(2, 2), -torch.rand(2, 2), None), NextLayer.of(*torch.rand(2, 2, 2), None, None)
ReLUSweep(*block, np.linspace(0, 1, 3)).series(0.5, 1)  # loads numba
before = most()
ls.profile(start, line, data, alphas=int(sys.argv[1]), derivative=derivative)
print(most() - before, before - first)
"""


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """Growth of a process's largest resident size in the call, data and model there before (20,000 images: 63 MB).

    What a call with one batch imports is there before, and so is numba, whose own size is told beside.
    """
    found, numba = {}, []
    for what in ("loss", "derivative"):
        for points in (5, 20, 80):
            done = subprocess.run(
                [sys.executable, "-c", MEMORY, str(points), what],
                capture_output=True,
                text=True,
                check=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
            )
            taken, loaded = (round(float(each), 1) for each in done.stdout.split())
            found[f"{what}, {points} points"] = taken
            numba.append(loaded)
    print(f"  MB above data and model: {found}; numba: {numba}")
    about = {"network": "784-1024-1024-10", "examples": 20_000}
    return about | {"megabytes_above_data_and_model": found, "megabytes_of_numba": statistics.median(numba)}


PARTS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "mlp": mlp,
    "large": large,
    "large_256": large_256,
    "widths": widths,
    "growth": growth,
    "resnet": resnet,
    "derivative": derivative,
    "adaptive": adaptive,
    "workers": workers,
    "memory": memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--examples", type=int, default=3000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    result = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in options.parts or list(PARTS):
        print(name, flush=True)
        found = PARTS[name](options)
        result[name] = {
            "rounds": options.rounds,
            "threads": 1,
            "machine": platform.machine(),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "found": found,
        }
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(f"wrote {RESULTS}")


if __name__ == "__main__":
    main()
