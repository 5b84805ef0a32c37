"""Networks of many kinds: profile() against the plain loop, so that none is slower.

usage: python benchmarks/bench_models.py [WORDS …] [--rounds 5]

One thread, float32, random data of the usual shapes, 50 α (12 for convolutions); interleaved rounds, ratios of the
same round. The loop measures the loss alone, `profile(derivative=False)` loss and accuracy; for classes there is a
second loop that measures both. Networks of the laboratory, and others with a loss of one's own, tied weights, and
torch's own Transformer layer; ResNet-20 with batch norm is in bench_engine.py. Networks with batch norm are measured
with statistics on the line in both ways, and with statistics that each way estimates anew at every α from the same
data: the loop by a pass in training mode before the one that measures (pooled over batches), `profile` by the same or
exactly. With words, only the networks whose name has one of them; other results are kept. Written to
benchmarks/results/models.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from bench_engine import RESULTS, batches, interleaved, losses
from loops import loop
from machine import machine
from networks import Attention, Tied, fully_connected, moved
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

import lerpscape as ls
from lerpscape.lab.models import build

IMAGE, PICTURE = (1, 28, 28), (3, 32, 32)
# name: the model, its options, the shape of an example, outputs, examples, batch size
NETWORKS: dict[str, tuple[str, dict[str, Any], tuple[int, ...], int, int, int]] = {
    "fully connected 256-256": ("fully_connected", {"widths": (256, 256)}, IMAGE, 10, 2048, 512),
    "fully connected 16": ("fully_connected", {"widths": (16,)}, IMAGE, 10, 2048, 512),
    "fully connected 256-256, tanh, batch norm": (
        "fully_connected",
        {"widths": (256, 256), "activation": "tanh", "batch_norm": True},
        IMAGE,
        10,
        2048,
        512,
    ),
    "fully connected 256-256, gelu, NTK": (
        "fully_connected",
        {"widths": (256, 256), "activation": "gelu", "parametrization": "ntk"},
        IMAGE,
        10,
        2048,
        512,
    ),
    "fully connected 256-256, groupsort, no bias": (
        "fully_connected",
        {"widths": (256, 256), "activation": "groupsort", "biases": "none"},
        IMAGE,
        10,
        2048,
        512,
    ),
    "autoencoder 512": ("autoencoder", {}, IMAGE, 784, 1024, 256),
    "linear autoencoder": ("linear_autoencoder", {}, IMAGE, 784, 1024, 256),
    "lenet": ("lenet", {}, IMAGE, 10, 2048, 128),
    "lenet, batch norm": ("lenet", {"batch_norm": True}, IMAGE, 10, 2048, 128),
    "alexnet": ("alexnet", {}, PICTURE, 10, 512, 64),
    "resnet-20, fixup": ("resnet", {"norm": "fixup"}, PICTURE, 10, 256, 128),
    "lstm": ("lstm", {}, (), 1000, 128, 16),
    "transformer": ("transformer", {}, (), 1000, 128, 16),
}


OTHERS = ("own loss", "tied weights", "torch's own attention")


def huber(outputs: Tensor, targets: Tensor) -> Tensor:
    return smooth_l1_loss(outputs, targets, reduction="none").mean(1)


def contest(name: str) -> tuple[nn.Module, nn.Module, list[Any], Any, int]:
    """Both ends, batches, the loss and the number of examples."""
    if name in OTHERS:
        return other(name)
    model, options, shape, outputs, count, size = NETWORKS[name]
    start = build(model, inputs=shape, outputs=outputs, seed=0, **options).eval()
    if not shape:
        return start, moved(start), following(outputs, count, size), "cross_entropy", count
    images = torch.randn(count, *shape)
    targets = images.flatten(1) if "autoencoder" in model else torch.randint(0, outputs, (count,))
    kind = "squared_error" if "autoencoder" in model else "cross_entropy"
    return start, moved(start), batches(images, targets, size), kind, count


def other(name: str) -> tuple[nn.Module, nn.Module, list[Any], Any, int]:
    if name == "own loss":
        start = fully_connected(784, 256, 256, 10).eval()
        return start, moved(start), batches(torch.randn(2048, 784), torch.randn(2048, 10), 512), huber, 2048
    start = (Tied(1000, 200) if name == "tied weights" else Attention(1000, 200)).eval()
    return start, moved(start), following(1000, 128, 16), "cross_entropy", 128


def following(vocabulary: int, count: int, size: int) -> list[Any]:
    """Sequences of 35 tokens, and those that follow."""
    tokens = torch.randint(0, vocabulary, (count, 36))
    return batches(tokens[:, :-1], tokens[:, 1:], size)


def compared(name: str, rounds: int) -> dict[str, Any]:
    start, end, data, kind, count = contest(name)
    pictures = isinstance(data[0], tuple) and data[0][0].dim() == 4
    points = 12 if pictures and "connected" not in name and "autoencoder" not in name else 50
    alphas, line = np.linspace(0, 1, points), ls.Line(start, end)
    normalised = "norm" in name and "batch" in name

    def ours(policy: Any) -> Callable[[], Any]:
        return lambda: ls.profile(
            start, line, data, loss=kind, alphas=points, derivative=False, batch_norm=policy, progress=False
        )

    plain = "the loop"
    ways: dict[str, Callable[[], Any]] = {
        plain: lambda: loop(start, end, data, kind, alphas, count, False),
        "lerpscape": ours(ls.InterpolateStatistics() if normalised else None),
    }
    if kind == "cross_entropy":
        ways["the loop, accuracy too"] = lambda: loop(start, end, data, kind, alphas, count, False, accuracy=True)
    found = interleaved(ways, rounds, plain, losses)
    if normalised:
        plain = "the loop, a pass in training mode before each"
        ways = {
            plain: lambda: loop(start, end, data, kind, alphas, count, True),
            "lerpscape, exact statistics": ours(ls.Recalibrate(data)),
            "lerpscape, pooled statistics": ours(ls.Recalibrate(data, pooled=True)),
        }
        found |= interleaved(ways, rounds, plain, losses)
    plan = ours(ls.InterpolateStatistics() if normalised else None)().how["plan"]
    return {"examples": count, "points": points, "rounds": rounds, "plan": plan, "ways": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    out = RESULTS.with_name("models.json")
    for name in (*NETWORKS, *OTHERS):
        if options.words and not any(word in name for word in options.words):
            continue
        print(name, flush=True)
        row = compared(name, options.rounds)
        kept = json.loads(out.read_text()) if out.exists() else {}
        kept["what"] = __doc__
        kept[name] = row | {"torch": torch.__version__, "machine": machine(), "threads": 1}
        out.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
