"""Memory, bytes read and seconds of a profile between two checkpoints of 1 GB, each way in a process of its own.

`python benchmarks/bench_memory.py --out benchmarks/results/memory.json` makes two ends of a Llama-like network with
random weights, as sharded safetensors in a temporary folder, and measures on them. `--before FOLDER` names a copy of
this repository at an earlier commit to compare with.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from machine import machine
from torch import Tensor, nn

ALPHAS, BATCH, LENGTH = 5, 2, 32
WAYS = (
    "nothing",
    "loop",
    "before",
    "before, derivative",
    "from α to α",
    "by layers",
    "by layers, on meta",
    "derivative",
)
# Bytes of address space under which the ordinary ways break. Importing torch takes some 3 GB of it.
LIMIT = 4_600_000_000


class Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.weight


class Layer(nn.Module):
    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = Norm(width), Norm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate, self.up, self.down = (
            nn.Linear(*sizes, bias=False) for sizes in ((width, inner), (width, inner), (inner, width))
        )

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        h = self.first(x)
        q, k, v = (each(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(turned(q, turn), turned(k, turn), v, is_causal=True)
        x = x + self.o(mixed.transpose(1, 2).flatten(2))
        h = self.second(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


def turned(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    one, other = x.chunk(2, -1)
    return x * turn[0] + torch.cat([-other, one], -1) * turn[1]


class Llama(nn.Module):
    """A Llama-like language model."""

    def __init__(self, width: int, layers: int, heads: int, inner: int, words: int) -> None:
        super().__init__()
        self.size = width // heads
        self.embed = nn.Embedding(words, width)
        self.layers = nn.ModuleList(Layer(width, heads, inner) for _ in range(layers))
        self.norm = Norm(width)
        self.head = nn.Linear(width, words, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        speed = 1e4 ** -(torch.arange(0, self.size, 2) / self.size)
        angle = (torch.arange(ids.shape[1])[:, None] * speed).repeat(1, 2)
        turn = angle.cos(), angle.sin()
        for layer in self.layers:
            x = layer(x, turn)
        logits: Tensor = self.head(self.norm(x))
        return logits


SIZES = {"width": 1024, "layers": 18, "heads": 16, "inner": 2816, "words": 16000}
SMALL = {"width": 64, "layers": 3, "heads": 4, "inner": 176, "words": 500}


def skeleton(sizes: dict[str, int]) -> Llama:
    with torch.device("meta"):
        return Llama(**sizes)


def write(folder: Path, sizes: dict[str, int], seed: int) -> None:
    """One end: two shards and their index."""
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    names = {name: tensor.shape for name, tensor in skeleton(sizes).state_dict().items()}
    folder.mkdir()
    places, every = {}, list(names)
    for number, part in enumerate((every[: len(every) // 2], every[len(every) // 2 :]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        tensors = {}
        for name in part:
            scale = 0.02 if len(names[name]) > 1 else 0.1
            tensors[name] = scale * torch.randn(names[name], generator=generator) + (len(names[name]) == 1)
            places[name] = file
        save_file(tensors, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def loop(model: nn.Module, ends: list[Path], batch: tuple[Tensor, Tensor]) -> list[float]:
    """What one writes without a library."""
    from safetensors.torch import load_file

    start, end = (
        {k: v for file in sorted(each.glob("*.safetensors")) for k, v in load_file(file).items()} for each in ends
    )
    losses = []
    for index in range(ALPHAS):
        model.load_state_dict({name: torch.lerp(start[name], end[name], index / (ALPHAS - 1)) for name in start})
        with torch.no_grad():
            losses.append(float(F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())))
    return losses


def measure(way: str, folder: Path, sizes: dict[str, int], limit: int | None) -> dict[str, Any]:
    """One way in this process: its highest memory, what it read, and its time."""
    import lerpscape as ls

    torch.manual_seed(0)
    ids = torch.randint(0, sizes["words"], (BATCH, LENGTH + 1))
    batch = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    ends = [folder / "start", folder / "end"]
    model = skeleton(sizes) if "meta" in way else Llama(**sizes)
    model.eval()
    plain = 0.0
    if way == "nothing":
        with torch.no_grad():
            for _ in range(2):
                began = time.perf_counter()
                model(batch[0])
                plain = time.perf_counter() - began
    if limit is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    read, began = bytes_read(), time.perf_counter()
    losses: list[float] | None = None
    failed = None
    try:
        if way == "loop":
            losses = loop(model, ends, batch)
        elif way != "nothing":
            options: dict[str, Any] = {"alphas": ALPHAS, "derivative": "derivative" in way, "progress": False}
            if not way.startswith("before"):
                options["layer_major"] = way != "from α to α"
            losses = ls.profile(model, ls.Line(*ends), [batch], **options).loss.tolist()
    except (MemoryError, RuntimeError) as error:
        failed = f"{type(error).__name__}: {str(error).splitlines()[-1][:80]}"
    return {
        "peak": peak(),
        "read": bytes_read() - read,
        "seconds": round(time.perf_counter() - began, 2) if way != "nothing" else round(plain, 2),
        "losses": losses,
        "failed": failed,
    }


def peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def in_a_process(way: str, folder: Path, small: bool, before: Path | None, limit: int | None = None) -> dict[str, Any]:
    here = Path(__file__).resolve().parent
    root = before if way.startswith("before") and before else here.parent
    words = [sys.executable, str(here / "bench_memory.py"), "--way", way, "--folder", str(folder)]
    words += ["--small"] * small + (["--limit", str(limit)] if limit else [])
    found = subprocess.run(words, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True)
    if found.returncode:
        return {"failed": found.stderr.strip().splitlines()[-1][:120] if found.stderr.strip() else "killed"}
    result: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--before", type=Path, help="a copy of the repository at an earlier commit")
    parser.add_argument("--small", action="store_true", help="a small network, to try the script")
    parser.add_argument("--only", help="one way alone")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    sizes = SMALL if args.small else SIZES
    if args.way:
        print(json.dumps(measure(args.way, args.folder, sizes, args.limit)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(args.folder or name)
        for end, seed in (("start", 1), ("end", 2)):
            if not (folder / end).exists():
                write(folder / end, sizes, seed)
        tensors = skeleton(sizes).state_dict().values()
        weights, largest = sum(each.nbytes for each in tensors), max(each.nbytes for each in tensors)
        print(f"one model is {weights / 2**30:.2f} GiB, its largest tensor {largest / 2**30:.3f} GiB; {machine()}")
        ways = [way for way in WAYS if (args.before or not way.startswith("before")) and args.only in (None, way)]
        found = {way: in_a_process(way, folder, args.small, args.before) for way in ways}
        limited = [way for way in ("loop", "before", "from α to α", "by layers, on meta") if way in ways]
        found |= {f"{way}, limited": in_a_process(way, folder, args.small, args.before, LIMIT) for way in limited}
        for way, result in found.items():
            if result.get("failed"):
                print(f"{way:30} fails: {result['failed']}")
                continue
            models = f"{result['peak'] / 2**30:5.2f} GiB at most, {result['read'] / weights:5.2f} models read"
            print(f"{way:30} {models}, {result['seconds']:6.2f} s  {result['losses'] and result['losses'][1]}")
        if args.out:
            facts = {"machine": machine(), "torch": torch.__version__, "threads": torch.get_num_threads()}
            facts |= {"alphas": ALPHAS, "batch": [BATCH, LENGTH], "sizes": sizes, "limit": LIMIT}
            facts |= {"model_bytes": weights, "largest_tensor_bytes": largest, "ways": found}
            args.out.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
