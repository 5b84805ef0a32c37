"""Which path between two checkpoints, from the command line: the choices that commands share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path as File
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from lerpscape.base.errors import explain
from lerpscape.base.names import import_object

if TYPE_CHECKING:
    from lerpscape.paths.path import Path


@dataclass(frozen=True)
class Road:
    """The path from START to END: straight, unless said otherwise."""

    via: Annotated[tuple[File, ...], tyro.conf.arg(metavar="FILE…")] = ()
    """Checkpoints to pass on the way, in equal shares of α."""
    control: Annotated[File | None, tyro.conf.arg(metavar="FILE")] = None
    """Control point of a quadratic Bezier curve, as `lerpscape connect` writes it."""
    spherical: bool = False
    """Along spheres: each parameter turns, and its norm goes straight."""
    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATTERN…")] = ()
    """Move these tensors alone: names, modules, globs such as layer3.*, kind:weights, kind:biases, kind:norms."""
    rest: Literal["start", "end"] = "end"
    """With --only: where all others are held."""
    schedule: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATTERN=POWER…")] = ()
    """Tensors at other times: "*.bias=2" puts them at α², "*.bias=package.module:name" at your function of α."""
    homogeneous_biases: bool = False
    """Biases of layer h at α^h."""
    reversed: bool = False
    """From END to START."""

    def path(self, start: str, end: str, model: Any) -> Path:
        """The path that the choices describe."""
        from lerpscape.paths.curves import Bezier, Polyline
        from lerpscape.paths.line import Line
        from lerpscape.paths.spheres import SphericalLine

        shapes = {"--via": bool(self.via), "--control": self.control is not None, "--spherical": self.spherical}
        if sum(shapes.values()) > 1:
            chosen = " and ".join(name for name, given in shapes.items() if given)
            raise ValueError(explain(expected="one shape of the path.", got=f"{chosen}.", hint="Leave the others out."))
        path: Path
        if self.via:
            path = Polyline(start, *self.via, end)
        elif self.control:
            path = Bezier(start, self.control, end)
        else:
            path = SphericalLine(start, end) if self.spherical else Line(start, end)
        if self.schedule:
            path = path.schedule(dict(map(_scheduled, self.schedule)))
        if self.homogeneous_biases:
            path = path.homogeneous_biases(model)
        if self.only:
            path = path.only(*self.only, rest=self.rest)
        return path.reversed() if self.reversed else path


OnRoad = Annotated[Road, tyro.conf.OmitArgPrefixes]
STRAIGHT = Road()


def _scheduled(text: str) -> tuple[str, Any]:
    pattern, sign, time = text.rpartition("=")
    try:
        power = float(time) if ":" not in time else None
    except ValueError:
        power = None
    if not sign or not pattern or (power is None and ":" not in time) or (power is not None and power < 1):
        raise ValueError(
            explain(
                expected="PATTERN=POWER with a power of at least 1, or PATTERN=package.module:name.",
                got=f"{text!r}.",
                hint='--schedule "*.bias=2" puts biases at α².',
            )
        )
    from lerpscape.paths.schedules import Power

    return pattern, import_object(time) if power is None else Power(power)
