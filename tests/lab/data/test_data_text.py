"""Text readers against counting by hand, and synthetic data against their known optimum."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lerpscape.base.errors import ConfigError
from lerpscape.lab.data import DataSet, load
from lerpscape.lab.data.text import WORD, language_set
from lerpscape.networks.losses import Loss, cross_entropy, per_example_values, squared_error


def words(found: DataSet, part: str) -> list[str]:
    """The tokens of a part, as far as its sequences reach, read back through the vocabulary."""
    split = getattr(found, part)
    assert found.vocabulary is not None
    stream = [*split.inputs.flatten().tolist(), int(split.targets[-1, -1])]
    return [found.vocabulary[i] for i in stream]


# a folder of texts


def write_texts(folder: Path, texts: list[str]) -> None:
    folder.mkdir()
    for i, each in enumerate(texts):
        (folder / f"{i:03}.txt").write_text(each, encoding="utf-8")


def test_files_go_to_their_part_by_their_number(tmp_path: Path) -> None:
    write_texts(tmp_path / "mine", [f"file{i} and a common end ." for i in range(23)])
    (tmp_path / "mine" / "notes.md").write_text("not a text")
    (tmp_path / "mine" / "folder.txt").mkdir()
    found = load("text", tmp_path, path="mine", split="files", length=1, min_count=1)
    numbers = {part: {w for w in words(found, part) if w.startswith("file")} for part in ("train",)}
    assert numbers["train"] == {f"file{i}" for i in range(23) if i % 10 not in (4, 9)}
    assert words(found, "validation").count("<unk>") == 2  # file4 and file14, which training has never seen
    assert words(found, "test").count("<unk>") == 2
    assert (found.task, found.inputs, found.outputs) == ("language", (), 19 + 5 + 2)  # files, common words, <unk> <eos>
    assert found.facts["tokens"] == {"train": 19 * 7, "validation": 2 * 7, "test": 2 * 7}
    assert found.facts["unknown"] == {"train": 0.0, "validation": 2 / 14, "test": 2 / 14}


def test_words_and_symbols(tmp_path: Path) -> None:
    write_texts(tmp_path / "mine", ['Don\'t — it’s a first-rate, 2-day "test"\n\n(naïve)!'] * 10)
    found = load("text", tmp_path, path="mine", split="files", length=1)
    expected = [
        "Don't",
        "—",
        "it’s",
        "a",
        "first-rate",
        ",",
        "2-day",
        '"',
        "test",
        '"',
        "(",
        "naïve",
        ")",
        "!",
        "<eos>",
    ]
    assert words(found, "test") == expected


@given(st.text(max_size=200))
def test_no_symbol_of_a_text_is_lost(content: str) -> None:
    assert "".join(WORD.findall(content)) == re.sub(r"\s", "", content)


def test_characters(tmp_path: Path) -> None:
    write_texts(tmp_path / "mine", ["ab é\n"] * 10)
    found = load("text", tmp_path, path="mine", split="files", level="character", length=2)
    assert words(found, "test") == ["a", "b", " ", "é", "\n"]  # <eos> is the sixth, and 2 · 2 + 1 are used
    assert found.outputs == 7


def test_a_position_cuts_the_whole_text(tmp_path: Path) -> None:
    write_texts(tmp_path / "mine", [" ".join(str(i) for i in range(99))])
    found = load("text", tmp_path, path="mine", split="position", length=1, min_count=1)
    assert words(found, "train") == [str(i) for i in range(80)]
    assert found.facts["tokens"] == {"train": 80, "validation": 10, "test": 10}
    assert found.facts["unknown"]["test"] == 0.9  # all but <eos>


@given(
    st.lists(st.lists(st.sampled_from("abcdefg"), max_size=30), min_size=3, max_size=3),
    st.integers(1, 4),
    st.integers(1, 3),
)
@example([["a", "b", "c"], ["a"] * 3, ["a"] * 3], 2, 2)  # as many positions as tokens
@settings(max_examples=100, deadline=None)
def test_the_vocabulary_is_counted_in_the_training_part_alone(
    parts: list[list[str]], length: int, min_count: int
) -> None:
    try:
        found = language_set("x", ([parts[0]], [parts[1]], [parts[2]]), length, min_count)
    except ValueError as error:
        assert min(map(len, parts)) <= length
        assert f"at least {length + 1} tokens" in str(error)
        return
    train = parts[0]
    kept = {token for token in train if train.count(token) >= min_count}
    assert found.vocabulary is not None
    assert found.vocabulary[:2] == ("<unk>", "<eos>")
    assert list(found.vocabulary[2:]) == sorted(kept, key=lambda token: (-train.count(token), token))
    for name, part in zip(("train", "validation", "test"), parts, strict=True):
        expected = [token if token in kept else "<unk>" for token in part]
        used = (len(part) - 1) // length * length + 1
        assert words(found, name) == expected[:used]
        split = getattr(found, name)
        assert split.inputs.shape == split.targets.shape == ((len(part) - 1) // length, length)
        assert torch.equal(split.inputs.flatten()[1:], split.targets.flatten()[:-1])  # the next token, everywhere
        inputs, targets = split.batch(torch.arange(len(split)))
        language = Loss("cross_entropy", class_dim=-1)  # as runs of the laboratory have it
        logits = torch.zeros(*inputs.shape, found.outputs)
        assert per_example_values(language, logits, targets, len(split)).shape == (len(split),)


def test_texts_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"a folder of \.txt files") as found:
        load("text", tmp_path, path="nowhere", split="files")
    assert "\ntry: " in str(found.value)
    write_texts(tmp_path / "few", ["a b c"] * 9)
    with pytest.raises(ValueError, match=r'got: 9\.\ntry: split = "position"'):
        load("text", tmp_path, path="few", split="files")
    with pytest.raises(ValueError, match="at least 36 tokens of text in the train part"):
        load("text", tmp_path, path="few", split="position")
    (tmp_path / "few" / "0.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(ValueError, match=r"0\.txt to be text in UTF-8"):
        load("text", tmp_path, path="few", split="position")
    with pytest.raises(ConfigError, match="a whole number ≥ 1 for length"):
        load("text", tmp_path, path="few", split="position", length=0)


def test_wikitext_keeps_its_own_unknown_words_and_ends_every_line(tmp_path: Path) -> None:
    folder = tmp_path / "wikitext-2"
    folder.mkdir()
    texts = {
        "train": " \n = Title = \n \n The <unk> ran , the dog @-@ like <unk> sat . \n",
        "valid": " The dog sat . \n",
        "test": " The wolf ran\u2028on . \n",  # a separator of lines for Python, a space for who counts words
    }
    for part, each in texts.items():
        (folder / f"wiki.{part}.tokens").write_text(each, encoding="utf-8")
    found = load("wikitext2", tmp_path, length=1, verify=False)
    line = ["The", "<unk>", "ran", ",", "the", "dog", "@-@", "like", "<unk>", "sat", ".", "<eos>"]
    assert words(found, "train") == ["<eos>", "=", "Title", "=", "<eos>", "<eos>", *line]
    assert words(found, "validation") == ["The", "dog", "sat", ".", "<eos>"]
    assert words(found, "test") == ["The", "<unk>", "ran", "<unk>", ".", "<eos>"]
    assert found.facts["unknown"]["test"] == 2 / 6
    with pytest.raises(ValueError, match=r"wiki\.train\.tokens to be the official file, sha1:863f29c4"):
        load("wikitext2", tmp_path)


# synthetic data


def test_blobs_have_their_bayes_error() -> None:
    for distance in (1.0, 2.0, 4.0):
        found = load("gaussian_blobs", examples=50_000, dimensions=5, distance=distance)
        inputs, targets = found.test.batch(slice(None))
        error = float(((inputs @ found.facts["direction"] > 0) != (targets == 1)).double().mean())
        expected = found.facts["bayes_error"]
        assert error == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 50_000))
    assert load("gaussian_blobs", distance=0.0).facts["bayes_error"] == 0.5


def test_a_linear_model_is_right_on_the_teachers_classes() -> None:
    found = load("teacher_classification", examples=300, classes=4)
    for split in (found.train, found.test):
        inputs, targets = split.batch(slice(None))
        assert torch.equal((inputs @ found.facts["teacher"].T).argmax(1), targets)
    assert found.outputs == 4 and found.train.classes == 4


def test_least_squares_finds_the_regression_teacher_and_its_noise() -> None:
    found = load("teacher_regression", examples=20_000, dimensions=6, outputs=2, noise=0.3)
    inputs, targets = (each.double() for each in found.train.batch(slice(None)))
    weights = torch.linalg.lstsq(inputs, targets).solution.T
    assert float((weights - found.facts["teacher"]).abs().max()) < 5 * 0.3 / math.sqrt(20_000)
    inputs, targets = found.test.batch(slice(None))
    errors = squared_error(inputs @ found.facts["teacher"].T, targets).double()
    assert float(errors.mean()) == pytest.approx(0.18, abs=4 * float(errors.std()) / math.sqrt(20_000))
    assert found.facts["bayes_error"] == pytest.approx(0.18)


def test_the_chains_own_transitions_reach_its_entropy_rate() -> None:
    found = load("markov_chain", examples=5000, length=20, vocabulary=5)
    transitions = found.facts["transitions"]
    np.testing.assert_allclose(transitions.sum(1), 1, rtol=1e-12)
    inputs, targets = found.test.batch(slice(None))
    losses = cross_entropy(transitions.log()[inputs], targets)
    expected = found.facts["entropy_rate"]
    assert float(losses.mean()) == pytest.approx(expected, abs=4 * float(losses.std()) / math.sqrt(5000))
    # a model that does not know the transitions does worse: by the Kullback-Leibler divergence to its own
    uniform = cross_entropy(torch.zeros(5000, 20, 5), targets)
    assert float(uniform.mean()) == pytest.approx(math.log(5), rel=1e-6) and math.log(5) > expected
    # counted by powers of P: the distribution is the same at every position
    first, last = (inputs[:, i].bincount(minlength=5) / 5000 for i in (0, -1))
    stationary = torch.linalg.matrix_power(transitions, 200)[0]
    for share in (first, last):
        assert float((share - stationary).abs().max()) < 4 * math.sqrt(0.25 / 5000)


@pytest.mark.parametrize("name", ["gaussian_blobs", "teacher_classification", "teacher_regression", "markov_chain"])
def test_synthetic_sets_depend_only_on_their_seed(name: str) -> None:
    state = torch.get_rng_state()
    one, again, other = (load(name, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.train.inputs, again.train.inputs)
    assert not torch.equal(one.train.inputs, other.train.inputs)
    assert not torch.equal(one.train.inputs, one.test.inputs)
    assert torch.equal(torch.get_rng_state(), state)
