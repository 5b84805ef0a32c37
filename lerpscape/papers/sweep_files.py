"""The sweep files of published studies, by name."""

from __future__ import annotations

from pathlib import Path

from lerpscape.base.names import unknown_name


def sweep_file(name: str | Path) -> Path:
    """The sweep file at this path or, if there is none, that of a published study: `lucas2021/fc-small`.

    Raises `FileNotFoundError` for neither, with the nearest name of a published one.

    >>> sweep_file("lucas2021/fc-small").relative_to(Path(__file__).parent).as_posix()
    'lucas2021/sweeps/fc-small.toml'
    """
    path, folder = Path(name), Path(__file__).parent
    if path.is_file():
        return path
    published = {f"{file.parents[1].name}/{file.stem}": file for file in sorted(folder.glob("*/sweeps/*.toml"))}
    if str(name) not in published:
        raise FileNotFoundError(unknown_name("the path of a sweep file, or a published sweep", str(name), published))
    return published[str(name)]
