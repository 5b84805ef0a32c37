"""A folder with two networks to call the command on, and what a refusal looks like."""

from __future__ import annotations

import sys
from functools import wraps
from pathlib import Path

import pytest
import torch
from cases import CASES
from safetensors.torch import save_file

from lerpscape.cli.main import COMMANDS, STUDIES, main, run

MODULE = """
import cases, torch
case = cases.CASES[{index}]
def build():
    return case.build().double()
def data():
    return case.data()
def held_out():
    return case.data()[:2]
def shuffled():
    numbers = torch.utils.data.TensorDataset(torch.arange(50.0), torch.arange(50))
    return torch.utils.data.DataLoader(numbers, shuffle=True)
ready = build()
items = case.data()
number = 3
def worst(outputs, targets):
    return outputs.square().sum(1)
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for index, name in ((0, "mine"), (3, "normed")):
        start, end = CASES[index].ends()
        save_file(start.state_dict(), f"{name}-start.safetensors")
        torch.save(end.state_dict(), f"{name}-end.pt")
        (tmp_path / f"{name}.py").write_text(MODULE.format(index=index))
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def command(*words: str, name: str = "mine") -> list[str]:
    ends = [f"{name}-start.safetensors", f"{name}-end.pt"]
    return ["profile", *ends, "--model", f"{name}:build", "--data", f"{name}:data", *words]


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.startswith("error: expected: ")
    assert "\ngot: " in found.err
    assert "\ntry: " in found.err
    return found.err


def parsed(words: list[str]) -> bool:
    """Whether `lerpscape WORDS` parses; it is not run. `SystemExit` or `ConfigError` where it does not."""
    reached = []
    with pytest.MonkeyPatch.context() as patch:
        for commands in (COMMANDS, STUDIES):
            for word, command in commands.items():
                patch.setitem(commands, word, wraps(command)(lambda *_, **__: reached.append(True)))
        run(words)
    return bool(reached) or words in ([], ["study"])
