"""`lerpscape data`: list, check and download data sets."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from lerpscape.cli.arguments import Json, OptionalFolder, Progress, optional

Action = Annotated[Literal["list", "check", "get"], tyro.conf.Positional]
Names = Annotated[tuple[str, ...], tyro.conf.Positional, optional("NAME…")]


def data_command(
    action: Action,
    names: Names = (),
    /,
    data_dir: OptionalFolder = None,
    json_: Json = False,
    progress: Progress = None,
) -> None:
    """List, check and download data sets.

    check exits with 1 if checksums, counts or pixel statistics are not the official ones.

    Args:
        action: list shows which are there and how to get the others, check compares their files, get downloads.
        names: Data sets; by default list takes all, check all that are there. get needs their names.
        data_dir: Folder of the data sets; by default LERPSCAPE_DATA.
        json_: Print JSON.
        progress: Progress bar.

    Examples:
        lerpscape data list --data-dir ~/data
        lerpscape data check mnist fashion_mnist
        lerpscape data get cifar10 --data-dir ~/data
    """
    {"list": _list, "check": _check, "get": _get}[action](names, data_dir, json_, progress)


def _list(names: tuple[str, ...], folder: Path | None, as_json: bool, progress: bool | None) -> None:
    from lerpscape.lab.data.checking import inventory

    known = inventory(folder)
    _require_known(names, [data_set.name for data_set in known])
    listed = [data_set for data_set in known if not names or data_set.name in names]
    if as_json:
        print(json.dumps([data_set.to_dict() for data_set in listed], ensure_ascii=False))
        return
    for data_set in listed:
        print(f"{data_set.name:<24}{data_set.state:<12}{data_set.title}")
        if data_set.missing:
            print(f"{'':<24}not in {data_set.where or 'a data folder'}: {', '.join(data_set.missing)}")
        elif data_set.where:
            print(f"{'':<24}in {data_set.where}")
        if data_set.advice:
            print(f"{'':<24}{data_set.advice}")
    if any(data_set.missing and not data_set.where for data_set in listed):
        print("no data folder: give --data-dir, or set LERPSCAPE_DATA")


def _check(names: tuple[str, ...], folder: Path | None, as_json: bool, progress: bool | None) -> None:
    from lerpscape.lab.data.checking import check, inventory

    chosen = names or tuple(data_set.name for data_set in inventory(folder) if data_set.state == "there")
    findings = [finding for name in chosen for finding in check(name, folder, progress)]
    if as_json:
        print(json.dumps([finding.to_dict() for finding in findings], ensure_ascii=False))
    else:
        for name in chosen:
            _print_findings(name, [finding for finding in findings if finding.data_set == name])
        if not chosen:
            print("nothing to check: no official data set is there; `lerpscape data list` says how to get them")
    if not all(finding.good for finding in findings):
        sys.exit(1)


def _print_findings(name: str, findings: list[Any]) -> None:
    wrong = [finding for finding in findings if not finding.good]
    print(f"{name}: {'all as expected' if not wrong else f'{len(wrong)} of {len(findings)} differ'}")
    for finding in findings:
        print(f"  {'ok   ' if finding.good else 'WRONG'}  {finding.what}: {finding.found}")
        if not finding.good:
            print(f"         expected: {finding.expected}")


def _get(names: tuple[str, ...], folder: Path | None, as_json: bool, progress: bool | None) -> None:
    from lerpscape.base.errors import ConfigError, explain
    from lerpscape.lab.data.downloads import get

    if not names:
        raise ConfigError(
            explain(expected="the names of data sets to download.", got="none.", hint="lerpscape data get mnist")
        )
    done = []
    for name in names:
        path, fetched = get(name, folder, progress)
        done.append({"name": name, "where": str(path), "downloaded": fetched})
        if not as_json:
            print(f"{name}: {'downloaded to' if fetched else 'there already, in'} {path}")
    if as_json:
        print(json.dumps(done, ensure_ascii=False))


def _require_known(names: tuple[str, ...], known: list[str]) -> None:
    from lerpscape.base.errors import ConfigError
    from lerpscape.base.names import unknown_name

    for name in names:
        if name not in known:
            raise ConfigError(unknown_name("a data set", name, known))
