"""The path between two checkpoints, as commands describe it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from lerpscape.base.errors import explain
from lerpscape.base.names import import_object
from lerpscape.cli.arguments import Flag, OptionalFile, optional

if TYPE_CHECKING:
    from lerpscape.paths.checkpoints import Checkpoint, Source
    from lerpscape.paths.path import Path as ParamPath


@dataclass(frozen=True)
class PathOptions:
    """The path from START to END; by default the straight line."""

    via: Annotated[tuple[Path, ...], optional("FILE…")] = ()
    """Checkpoints that the path passes through, at evenly spaced α."""
    control: OptionalFile = None
    """Control point of a quadratic Bezier curve, written by `lerpscape study connect`."""
    spherical: Flag = False
    """Rotate each tensor from START to END; its norm changes linearly."""
    only: Annotated[tuple[str, ...], optional("PATTERN…")] = ()
    """Move only these tensors: names, modules, globs (layer3.*), kind:weights, kind:biases or kind:norms."""
    rest: Annotated[Literal["start", "end"] | None, optional("{start,end}")] = None
    """With --only: the checkpoint that all other tensors are held at, by default end."""
    schedule: Annotated[tuple[str, ...], optional("PATTERN=POWER…")] = ()
    """Give tensors their own interpolation schedule. "*.bias=2" is α², "*.bias=package.module:name" your own."""
    homogeneous_biases: Flag = False
    """Interpolate the biases of layer h with α to the power h."""
    reversed: Flag = False
    """Go from END to START."""
    key: Annotated[tuple[str, ...], optional("KEY…")] = ()
    """State dict to take from a file that holds several: for all checkpoints, or one each."""
    prefix: Annotated[tuple[str, ...], optional("PREFIX…")] = ()
    """Take only tensors whose names start with this, without it: for all, or one each ("" for none)."""

    def between(self, start: Source, end: Source, model: Any) -> ParamPath:
        """The path of these options between two checkpoints."""
        from lerpscape.paths.curves import Bezier, Polyline
        from lerpscape.paths.line import Line
        from lerpscape.paths.spheres import SphericalLine

        shapes = {"--via": bool(self.via), "--control": self.control is not None, "--spherical": self.spherical}
        if sum(shapes.values()) > 1:
            chosen = " and ".join(name for name, given in shapes.items() if given)
            raise ValueError(explain(expected="one shape of the path.", got=f"{chosen}.", hint="Choose one of them."))
        if self.rest and not self.only:
            raise ValueError(
                explain(
                    expected="--only with --rest.",
                    got=f"--rest {self.rest} alone.",
                    hint=f'--only "layer3.*" --rest {self.rest}',
                )
            )
        path: ParamPath
        first, *middle, last = self._read(start, *self.via, *((self.control,) if self.control else ()), end)
        if self.via:
            path = Polyline(first, *middle, last)
        elif self.control:
            path = Bezier(first, middle[0], last)
        else:
            path = SphericalLine(first, last) if self.spherical else Line(first, last)
        if self.schedule:
            path = path.schedule(dict(map(_scheduled, self.schedule)))
        if self.homogeneous_biases:
            path = path.homogeneous_biases(model)
        if self.only:
            path = path.only(*self.only, rest=self.rest or "end")
        return path.reversed() if self.reversed else path

    def _read(self, *files: Source) -> list[Checkpoint]:
        """The checkpoints in these files, by the key and prefix of each."""
        from lerpscape.paths.checkpoints import checkpoint

        words: list[list[str]] = []
        for name, given in (("--key", self.key), ("--prefix", self.prefix)):
            if len(given) not in (0, 1, len(files)):
                raise ValueError(
                    explain(
                        expected=f"one {name} for all checkpoints, or one for each of {len(files)}.",
                        got=f"{len(given)}.",
                        hint=f'{name} FIRST SECOND, with "" for none',
                    )
                )
            words.append(list(given) if len(given) == len(files) else [*given, ""][:1] * len(files))
        return [checkpoint(file, key or None, prefix or None) for file, key, prefix in zip(files, *words, strict=True)]


LINE = PathOptions()


def _scheduled(text: str) -> tuple[str, Any]:
    pattern, sign, schedule = text.rpartition("=")
    try:
        power = float(schedule) if ":" not in schedule else None
    except ValueError:
        power = None
    if not sign or not pattern or (power is None and ":" not in schedule) or (power is not None and power < 1):
        raise ValueError(
            explain(
                expected="PATTERN=POWER with a power of at least 1, or PATTERN=package.module:name.",
                got=f"{text!r}.",
                hint='--schedule "*.bias=2" puts biases at α².',
            )
        )
    from lerpscape.paths.schedules import Power

    return pattern, import_object(schedule) if power is None else Power(power)
