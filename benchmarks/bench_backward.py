"""dL/dα of a small transformer by forward mode and by backward passes, and the contributions of its layers by both.

usage: python benchmarks/bench_backward.py [--rounds 3] [--tokens 128]

Processor time in interleaved rounds on one thread: profile() without derivative, in forward mode and by backward
passes, as multiples of the first; layer_contributions() in forward mode as a multiple of backward passes. Medians and
ranges go into benchmarks/results/backward.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from machine import machine
from torch import Tensor, nn

import lerpscape as ls

RESULTS = Path(__file__).parent / "results" / "backward.json"
WIDTH, HEADS, LAYERS, TOKENS = 64, 4, 4, 256


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.read, self.write = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.read(self.norms[0](x)).unflatten(-1, (HEADS, -1)).transpose(1, 2).chunk(3, -1)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.write(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norms[1](x))))


def language_model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Embedding(TOKENS, WIDTH), *(Layer() for _ in range(LAYERS)), nn.Linear(WIDTH, TOKENS))


def seconds(measure: Callable[[], Any]) -> float:
    began = time.process_time()
    measure()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    start, end = language_model(0), language_model(1)
    line = ls.Line(start, end)
    ids = torch.randint(0, TOKENS, (32, options.tokens), generator=torch.Generator().manual_seed(2))
    data = [(rows, rows) for rows in ids.split(8)]

    def profile(derivative: Any) -> Callable[[], Any]:
        return lambda: ls.profile(start, line, data, loss="next_token", alphas=11, derivative=derivative)

    def contributions(mode: Any) -> Callable[[], Any]:
        return lambda: ls.studies.layer_contributions(
            start, line, data, loss="next_token", between=(0, 1), budget=9, derivative=mode
        )

    ways = {
        "profile without derivative": profile(False),
        "profile in forward mode": profile("forward"),
        "profile by backward passes": profile("backward"),
        "contributions in forward mode": contributions("forward"),
        "contributions by backward passes": contributions("backward"),
    }
    rounds = [{name: seconds(way) for name, way in ways.items()} for _ in range(options.rounds)]

    def ratio(name: str, to: str) -> dict[str, float]:
        ratios = sorted(each[name] / each[to] for each in rounds)
        return {"median": statistics.median(ratios), "least": ratios[0], "most": ratios[-1]}

    plain, _, _, forward, backward = ways
    found = {name: ratio(name, plain) for name in list(ways)[1:3]} | {f"{forward} / backward": ratio(forward, backward)}
    found = {name: {each: round(value, 2) for each, value in row.items()} for name, row in found.items()}
    about = {"machine": machine(), "torch": torch.__version__, "rounds": options.rounds, "tokens": options.tokens}
    RESULTS.write_text(json.dumps({**about, "processor time": found}, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
