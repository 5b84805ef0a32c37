"""Options of a configuration against the signature of the function that takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import pytest

import lerpscape as ls
from lerpscape.lab.options import Size, check_options

if TYPE_CHECKING:
    from nowhere import Missing


def function(
    folder: str,
    *more: int,
    on: bool = False,
    count: int = 0,
    share: float = 0.5,
    word: str = "",
    level: Literal["word", "character"] = "word",
    size: Size = 1,
    sizes: Sequence[Size] = (),
    limit: int | None = None,
    anything: Any = None,
    bare=None,
) -> None: ...


def needing(*, size: Size, other: float) -> None: ...


def strange(option: Missing = None) -> None: ...


def free(**options: int) -> None: ...


@pytest.mark.parametrize(
    ("option", "good", "bad", "words"),
    [
        ("on", [True, False], [1, "true", None], "true or false"),
        ("count", [0, -3], [True, 1.0, "1"], "a whole number"),
        ("share", [0, 1.5, float("inf")], [True, "0.5", None], "a number"),
        ("word", ["", "a"], [1, True, ["a"]], "a word"),
        ("level", ["word", "character"], ["letter", 1], "one of 'word', 'character'"),
        ("size", [1, 7], [0, -1, 1.0, True, "1"], "a whole number ≥ 1"),
        ("sizes", [[], [3], (1, 2)], [3, [0], [1, True], "12", [1.5]], "a list of whole numbers ≥ 1"),
        ("limit", [None, 5], [2.5, "5"], "a whole number or nothing"),
        ("anything", [None, 5, "x"], [], ""),
        ("bare", [None, 5, "x"], [], ""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_types_of_options(option: str, good: list[Any], bad: list[Any], words: str) -> None:
    for value in good:
        check_options("f", function, {option: value}, given=["folder"])
    for value in bad:
        with pytest.raises(ls.ConfigError) as refused:
            check_options("f", function, {option: value}, given=["folder"])
        assert str(refused.value).startswith(f"expected: {words} for {option} of 'f'.\ngot: {value!r} (")


def test_names_of_options() -> None:
    for name in ("sise", "folder", "more"):
        with pytest.raises(ls.ConfigError, match=rf"option of 'f': one of on, count, .*, bare\.\n.*{name!r}"):
            check_options("f", function, {name: 1}, given=["folder"])
    with pytest.raises(ls.ConfigError, match="Did you mean 'size'"):
        check_options("f", function, {"sise": 1}, given=["folder"])
    check_options("f", free, {"whatever": "you like"})


def test_options_without_a_default_must_be_given() -> None:
    with pytest.raises(ls.ConfigError, match=r"a number for other of 'f'\.\n.*nothing"):
        check_options("f", needing, {"size": 2})
    check_options("f", needing, {"size": 2, "other": 1})
    with pytest.raises(ls.ConfigError, match=r"a word for folder of 'f'\.\n.*nothing"):
        check_options("f", function, {})


def test_annotations_for_type_checkers_only_take_any_value() -> None:
    check_options("f", strange, {"option": 3})
