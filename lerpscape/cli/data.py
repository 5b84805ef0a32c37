"""`lerpscape data`: which data sets are there, whether they are right, and their download."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from lerpscape.cli.arguments import Json, Switch

Action = Annotated[Literal["list", "check", "get"], tyro.conf.Positional]
Names = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
Folder = Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")]


def data_command(
    action: Action, names: Names = (), /, data_dir: Folder = None, json_: Json = False, progress: Switch = None
) -> None:
    """List data sets, check the copies that are there, or download official files.

    Args:
        action: list: what is where, what is missing, how to get it. check: hold checksums, counts and pixel statistics
            against what is known; exits with 1 where something differs. get: download, checksums compared.
        names: Data sets; by default list shows all, check takes those that are there.
        data_dir: The folder that data sets lie below; by default that of LERPSCAPE_DATA.
        json_: Print the result as JSON.
        progress: Progress bar: by default on a terminal.
    """
    {"list": _list, "check": _check, "get": _get}[action](names, data_dir, json_, progress)


def _list(names: tuple[str, ...], folder: Path | None, as_json: bool, progress: bool | None) -> None:
    from lerpscape.lab.data.checking import inventory

    everything = inventory(folder)
    _require_known(names, [each.name for each in everything])
    found = [each for each in everything if not names or each.name in names]
    if as_json:
        print(json.dumps([each.to_dict() for each in found], ensure_ascii=False))
        return
    for each in found:
        print(f"{each.name:<24}{each.state:<12}{each.title}")
        if each.missing:
            print(f"{'':<24}not in {each.where or 'a data folder'}: {', '.join(each.missing)}")
        elif each.where:
            print(f"{'':<24}in {each.where}")
        if each.advice:
            print(f"{'':<24}{each.advice}")
    if any(each.missing and not each.where for each in found):
        print("no data folder: give --data-dir, or set LERPSCAPE_DATA")


def _check(names: tuple[str, ...], folder: Path | None, as_json: bool, progress: bool | None) -> None:
    from lerpscape.lab.data.checking import check, inventory

    chosen = names or tuple(each.name for each in inventory(folder) if each.state == "there")
    findings = [finding for name in chosen for finding in check(name, folder, progress)]
    if as_json:
        print(json.dumps([each.to_dict() for each in findings], ensure_ascii=False))
    else:
        for name in chosen:
            _print_findings(name, [each for each in findings if each.data_set == name])
        if not chosen:
            print("nothing to check: no official data set is there; `lerpscape data list` says how to get them")
    if not all(each.good for each in findings):
        sys.exit(1)


def _print_findings(name: str, findings: list[Any]) -> None:
    wrong = [each for each in findings if not each.good]
    print(f"{name}: {'all as expected' if not wrong else f'{len(wrong)} of {len(findings)} differ'}")
    for each in findings:
        print(f"  {'ok   ' if each.good else 'WRONG'}  {each.what}: {each.found}")
        if not each.good:
            print(f"         expected: {each.expected}")


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
