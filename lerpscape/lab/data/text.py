"""Text for language models, as sequences of word or character numbers; the vocabulary is that of the training part."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from lerpscape.base.errors import explain
from lerpscape.lab.data._copies import data_folder, find_copy, text_files
from lerpscape.lab.data.catalogue import TEXT_FILES
from lerpscape.lab.data.splits import DataSet, Split
from lerpscape.lab.options import Size

Level: TypeAlias = Literal["word", "character"]
Parts: TypeAlias = tuple[list[list[str]], list[list[str]], list[list[str]]]

UNKNOWN, END = "<unk>", "<eos>"
WORD = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")  # don't and first-rate are one word each; every other symbol is a token


def text(
    folder: str | Path | None = None,
    *,
    path: str,
    split: Literal["files", "position"],
    level: Level = "word",
    length: Size = 35,
    min_count: Size = 3,
) -> DataSet:
    """A folder of .txt files (UTF-8) for language modelling; `path` is that folder, below the data folder.

    `split` decides the validation and test parts. "files": of the sorted files, number i (from 0) is for validation if
    i mod 10 = 4 and for the test if i mod 10 = 9. "position": of the concatenated files, the first 80 % are for
    training, the next 10 % for validation, the last 10 % for the test.

    A word is a run of letters and digits, with apostrophes and hyphens inside it; every other symbol except a space is
    a token. At level "character" each character is a token. Each file ends with <eos>. A token with fewer than
    `min_count` occurrences in the training part becomes <unk> in every part (Merity et al. 2016 use 3); `facts` holds
    the shares.

    An example is `length` tokens, and its targets are the next token after each; an incomplete last example of a part
    is dropped.

    Raises `FileNotFoundError` for a missing folder, `ValueError` for files that are not UTF-8 or too little text.
    """
    root = data_folder(folder) / path
    documents = [_tokens(content, level) for content in read_texts(root)]
    if split == "files":
        return language_set("text", _by_files(documents), length, min_count)
    return language_set("text", _by_position(documents), length, min_count)


def sotu(
    folder: str | Path | None = None,
    *,
    level: Level = "word",
    length: Size = 35,
    min_count: Size = 3,
    verify: bool = True,
) -> DataSet:
    """249 State of the Union addresses, split by files as in `text`: 200 training, 25 validation, 24 test."""
    copy = find_copy("sotu", folder, verify)
    copy.read(TEXT_FILES)
    documents = [_tokens(content, level) for content in read_texts(copy.path)]
    return language_set("sotu", _by_files(documents), length, min_count)


def wikitext2(folder: str | Path | None = None, *, length: Size = 35, verify: bool = True) -> DataSet:
    """WikiText-2 (Merity et al. 2016) from wikitext-2/wiki.{train,valid,test}.tokens, with words separated by spaces.

    The files already contain <unk> for rare words; each line, also an empty one, ends with <eos>.
    """
    copy = find_copy("wikitext2", folder, verify)
    parts = tuple([_lines(copy.read(f"wiki.{part}.tokens"), part)] for part in ("train", "valid", "test"))
    return language_set("wikitext2", (parts[0], parts[1], parts[2]), length, min_count=1)


def read_texts(path: Path) -> list[str]:
    """The .txt files of a folder, in sorted order.

    Raises `FileNotFoundError` if there are none, `ValueError` for a file that is not UTF-8.
    """
    files = text_files(path)
    if not files:
        raise FileNotFoundError(
            explain(
                expected=f"a folder of .txt files, {path}.",
                got="no .txt file.",
                hint="Put the texts there, one per file.",
            )
        )
    return [_decode(file.read_bytes(), str(file)) for file in files]


def language_set(name: str, parts: Parts, length: Size, min_count: Size) -> DataSet:
    """A language data set from tokenised documents of the training, validation and test parts.

    The vocabulary is <unk>, <eos>, then the tokens of the training part by decreasing frequency, ties by code points.

    Raises `ValueError` for a part shorter than one sequence.

    >>> words = "to be or not to be".split()
    >>> data = language_set("hamlet", ([words], [["to", "do"]], [["be", "or"]]), length=1, min_count=2)
    >>> data.vocabulary, data.train.inputs.flatten().tolist()
    (('<unk>', '<eos>', 'be', 'to'), [3, 2, 0, 0, 3])
    >>> data.facts["unknown"]["validation"]  # of "to" and "do", only "do" is unknown
    0.5
    """
    numbers: dict[str, int] = {UNKNOWN: 0, END: 1}
    raw = [_number_tokens(documents, numbers) for documents in parts]
    counts = torch.bincount(raw[0], minlength=len(numbers)).tolist()
    frequent = [token for token, i in numbers.items() if i > 1 and counts[i] >= min_count]
    vocabulary = (UNKNOWN, END, *sorted(frequent, key=lambda token: (-counts[numbers[token]], token)))
    final = torch.zeros(len(numbers), dtype=torch.int64)
    final[torch.tensor([numbers[token] for token in vocabulary])] = torch.arange(len(vocabulary))
    names = ("train", "validation", "test")
    streams = dict(zip(names, (final[part] for part in raw), strict=True))
    splits = {part: sequences(stream, length, part) for part, stream in streams.items()}
    return DataSet(
        name,
        splits["train"],
        splits["test"],
        "language",
        (),
        len(vocabulary),
        splits["validation"],
        vocabulary,
        {
            "tokens": {part: len(stream) for part, stream in streams.items()},
            "unknown": {part: float((stream == 0).double().mean()) for part, stream in streams.items()},
        },
    )


def sequences(stream: Tensor, length: Size, name: str) -> Split:
    """Examples of `length` tokens, with the next token after each as targets; the remainder is dropped.

    >>> split = sequences(torch.arange(6), 2, "train")
    >>> split.inputs.tolist(), split.targets.tolist()
    ([[0, 1], [2, 3]], [[1, 2], [3, 4]])
    """
    n = (len(stream) - 1) // length
    if n < 1:
        raise ValueError(
            explain(
                expected=f"at least {length + 1} tokens of text in the {name} part.",
                got=f"{len(stream)}.",
                hint='Use more text, a shorter length, or split = "position".',
            )
        )
    return Split(stream[: n * length].view(n, length), stream[1 : n * length + 1].view(n, length))


def _number_tokens(documents: Iterable[list[str]], numbers: dict[str, int]) -> Tensor:
    """Tokens as numbers in order of first appearance; new tokens are added to `numbers`."""
    return torch.tensor(
        [numbers.setdefault(token, len(numbers)) for document in documents for token in document], dtype=torch.int64
    )


def _tokens(content: str, level: Level) -> list[str]:
    return [*(WORD.findall(content) if level == "word" else content), END]


def _lines(content: bytes, name: str) -> list[str]:
    lines = _decode(content, name).removesuffix("\n").split("\n")
    return [token for line in lines for token in (*line.split(), END)]


def _by_files(documents: list[list[str]]) -> Parts:
    validation, test = documents[4::10], documents[9::10]
    if not test:
        raise ValueError(
            explain(
                expected="at least 10 files: the 5th is for validation, the 10th for the test.",
                got=f"{len(documents)}.",
                hint='split = "position" splits the concatenated text instead.',
            )
        )
    return [document for i, document in enumerate(documents) if i % 10 not in (4, 9)], validation, test


def _by_position(documents: list[list[str]]) -> Parts:
    tokens = [token for document in documents for token in document]
    first, second = len(tokens) * 8 // 10, len(tokens) * 9 // 10
    return [tokens[:first]], [tokens[first:second]], [tokens[second:]]


def _decode(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            explain(
                expected=f"{name} to be text in UTF-8.",
                got=f"{error}.",
                hint="Convert it: iconv -f latin1 -t utf-8",
            )
        ) from error
