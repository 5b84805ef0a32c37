"""What a user sees who asks for help, mistypes a word, or forgets an option."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Callable
from dataclasses import fields

import pytest
from commands import parsed, refused

import lerpscape as ls
from lerpscape.cli.main import COMMANDS, EXAMPLES, STUDIES, examples, main
from lerpscape.cli.options import DeviceOptions
from lerpscape.engine.measurement import MeasurementOptions

WORDS = [[word] for word in COMMANDS if word != "study"] + [["study", word] for word in STUDIES]


def help_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--help"])
    assert not stopped.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["study"], ["study", "--help"]], ids=" ".join)
def test_the_program_lists_its_words_and_study_its_studies(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    main(words)
    out = capsys.readouterr().out
    commands = STUDIES if words[:1] == ["study"] else COMMANDS
    assert re.findall(r"^  (\S+) +[A-Z]", out, flags=re.MULTILINE) == list(commands)
    listing, _, shown = out.partition("\nexamples:\n")
    assert max(map(len, listing.splitlines())) <= 80
    assert shown.startswith("  lerpscape ")


def test_about_ten_words() -> None:
    assert " ".join(COMMANDS) == "demo profile certify gauss gate write study report sweep table export data doctor"


@pytest.mark.parametrize("columns", ["80", "120"])
@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_help_of_every_word(
    words: list[str], columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    out = help_of(words, capsys)
    command = (STUDIES if words[0] == "study" else COMMANDS)[words[-1]]
    assert out.startswith(f"usage: lerpscape {' '.join(words)} ")
    assert str(inspect.getdoc(command)).partition("\n")[0] in out
    shown = out.partition("\nexamples:\n")[2]
    assert f"  lerpscape {' '.join(words)}" in shown
    assert "Args:" not in out and "Examples:" not in out and "None)" not in out


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.mark.parametrize(
    "line",
    [
        *(line for text in EXAMPLES.values() for line in lines(text)),
        *(line for command in (*COMMANDS.values(), *STUDIES.values()) for line in lines(examples(command))),
    ],
)
def test_every_example_parses(line: str) -> None:
    assert parsed(shlex.split(line)[1:])


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out.strip() == ls.__version__


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prfile", "a.pt", "b.pt"], "Did you mean 'profile'?"),
        (["study", "onse"], "Did you mean 'onset'?"),
        (["starts", "a.pt", "b.pt"], "try: lerpscape study starts"),
        (["study", "profile"], "try: lerpscape profile"),
        (["--verbose"], "got: '--verbose'"),
        (["sweep", "list", "lucas2021/fc-smal"], "Did you mean 'lucas2021/fc-small'?"),
        (["table", "nowhere.toml"], ", lucas2021/ae, "),
        (["sweep", "run", "lucas2021"], ", lucas2021/ae, "),
        (["data", "list", "minst"], "Did you mean 'mnist'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_misspelt_words_are_refused_with_the_nearest(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(words, capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["profile", "a.pt", "b.pt", "--modle", "nets:build"], "--modle"),
        (["profile", "a.pt", "b.pt", "--model", "n:b", "--data", "n:d", "--tolerance", "small"], "--tolerance"),
        (["profile", "a.pt", "b.pt", "--model", "n:b", "--data", "n:d", "--batch-norm", "all"], "recalibrate"),
        (["gauss", "a.pt", "b.pt", "--model", "n:b", "--data", "n:d", "--tolerance", "0.1"], "--tolerance"),
        (["study", "onset", "run", "--model", "n:b", "--data", "n:d"], "--tolerance"),
        (["study", "trajectory", "run", "--model", "n:b", "--data", "n:d", "--alphas", "5"], "--alphas"),
        (["sweep", "lst", "lucas2021/fc-small"], "list"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_options_exit_with_two_and_name_the_option(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    streams = capsys.readouterr()
    assert streams.out == "" and message in streams.err and f"lerpscape {words[0]}" in streams.err


def test_parsed_finds_what_does_not_parse() -> None:
    def fails(call: Callable[[], object]) -> bool:
        with pytest.raises((SystemExit, ls.ConfigError)):
            call()
        return True

    assert fails(lambda: parsed(["profile", "a.pt", "b.pt", "c.pt"]))
    assert fails(lambda: parsed(["study", "beginnings", "a.pt"]))


def test_device_options_are_those_of_the_library() -> None:
    assert [field.name for field in fields(DeviceOptions)] == list(MeasurementOptions.__annotations__)
