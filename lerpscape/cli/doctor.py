"""`lerpscape doctor`: what is installed, and what this machine has."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import tyro

from lerpscape import __version__
from lerpscape.cli.arguments import Json, OptionalFolder

# What each extra is for, and the packages that it installs.
EXTRAS = {
    "demo": ("lerpscape demo; scikit-learn's digits", ("scikit-learn",)),
    "lab": ("sweeps and data sets", ("filelock", "pillow", "polars", "pooch")),
    "ray": ("--workers ray: many machines", ("ray",)),
    "slurm": ("--workers slurm", ("submitit",)),
    "pandas": ("results as data frames", ("pandas",)),
    "fast": ("makes wide ReLU networks 1.5 to 2 times faster", ("numba",)),
    "curvature": ("lerpscape study curvature", ("hessian-eigenthings",)),
    "hf": ("folders of Hugging Face as checkpoints", ("transformers",)),
    "peft": ("adapters: base/+adapter/", ("peft",)),
    "lightning": ("a callback for Lightning", ("pytorch-lightning",)),
}


@dataclass(frozen=True)
class Extra:
    """An extra of lerpscape: what it is for, and the version of each of its packages that is installed."""

    name: str
    purpose: str
    versions: dict[str, str | None]

    @property
    def install(self) -> str | None:
        """The command that installs what is missing."""
        return f'pip install "lerpscape[{self.name}]"' if None in self.versions.values() else None


def doctor_command(
    store: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("results"),
    data_dir: OptionalFolder = None,
    json_: Json = False,
) -> None:
    """Show what is installed and what is missing.

    Versions, optional packages and what they are for, processor, threads, devices, data sets, and the results folder.

    Args:
        store: Folder of the results of sweeps: is it writable?
        data_dir: Folder of the data sets; by default LERPSCAPE_DATA.
        json_: Print JSON.

    Examples:
        lerpscape doctor
        lerpscape doctor --store /shared/results --data-dir ~/data --json
    """
    from lerpscape.lab.data.checking import inventory

    machine, extras, writable = _machine(), _extras(), _writable(store)
    folder = str(data_dir) if data_dir else os.environ.get("LERPSCAPE_DATA")
    readable = bool(folder) and Path(str(folder)).expanduser().is_dir()
    data_sets = inventory(folder) if readable else []
    if json_:
        shown = {
            **machine,
            "extras": [asdict(extra) | {"install": extra.install} for extra in extras],
            "data": {
                "folder": folder,
                "readable": readable,
                "sets": {data_set.name: data_set.state for data_set in data_sets},
            },
            "store": {"folder": str(store), "writable": writable},
        }
        print(json.dumps(shown, ensure_ascii=False))
        return
    for name, value in machine.items():
        print(f"{name.replace('_', ' '):<16}{', '.join(value) if isinstance(value, list) else value}")
    print("\nextras")
    for extra in extras:
        versions = ", ".join(f"{package} {number or '–'}" for package, number in extra.versions.items())
        print(f"  {extra.name:<14}{versions} ({extra.purpose})")
        if extra.install:
            print(f"  {'':<14}missing: {extra.install}")
    advice = "" if readable else ", which does not exist" if folder else "none: give --data-dir, or set LERPSCAPE_DATA"
    print(f"\n{'data folder':<16}{folder or ''}{advice}")
    for state in ("there", "incomplete", "missing", "built in"):
        names = [data_set.name for data_set in data_sets if data_set.state == state]
        if names:
            print(f"  {state:<14}{', '.join(names)}")
    print(f"{'results folder':<16}{store}, {'writable' if writable else 'NOT writable: choose another with --store'}")


def _machine() -> dict[str, Any]:
    import torch

    devices = ["cpu", *(f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count()))]
    return {
        "lerpscape": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.platform(),
        "cpu_kernels": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "devices": [*devices, *(["mps"] if torch.backends.mps.is_available() else [])],
    }


def _extras() -> list[Extra]:
    return [
        Extra(name, purpose, {package: _installed(package) for package in packages})
        for name, (purpose, packages) in EXTRAS.items()
    ]


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _writable(folder: Path) -> bool:
    """Whether files can be written into the folder; nothing is created."""
    folder = folder.expanduser().absolute()
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
