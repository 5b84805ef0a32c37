"""A text as blocks of tokens, for the loss of the next token."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from lerpscape.base.errors import explain
from lerpscape.base.saving import import_optional

# One of these files says how a text is cut into tokens.
_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "spiece.model", "vocab.txt")


@dataclass(frozen=True)
class TextBlocks:
    """Blocks of tokens of one text, as batches for `profile(..., loss="next_token")`.

    `length` is the number of tokens of every block but the last, `blocks` their number and `tokens` that of all.
    """

    batches: tuple[dict[str, Tensor], ...] = field(repr=False)
    length: int
    blocks: int
    tokens: int
    source: str = ""
    loss: str = "next_token"

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def text_blocks(tokens: Sequence[int], length: int, batch: int = 8, source: str = "") -> TextBlocks:
    """Cut tokens into blocks of one length, the last one aside, which needs two tokens and is else left out.

    Raises `ValueError` for blocks of less than two tokens, and for fewer tokens than that.

    >>> blocks = text_blocks(range(7), length=3, batch=2)
    >>> blocks.blocks, [each["input_ids"].tolist() for each in blocks]
    (2, [[[0, 1, 2], [3, 4, 5]]])
    """
    if length < 2 or batch < 1 or len(tokens) < 2:
        raise ValueError(
            explain(
                expected="a text of two tokens or more, in blocks of at least two and batches of at least one.",
                got=f"{len(tokens)} tokens, blocks of {length}, batches of {batch}.",
                hint="The first token of a block is not predicted: it has nothing before it.",
            )
        )
    ids = torch.tensor(list(tokens), dtype=torch.long)
    whole = len(ids) // length
    blocks = ids[: whole * length].view(whole, length)
    parts = [blocks[first : first + batch] for first in range(0, whole, batch)]
    if len(ids) - whole * length > 1:
        parts.append(ids[whole * length :].view(1, -1))
    batches = tuple({"input_ids": part, "labels": part} for part in parts)
    return TextBlocks(batches, length, sum(map(len, parts)), sum(part.numel() for part in parts), source)


def tokens_of(text: str, folders: Iterable[Path]) -> list[list[int]]:
    """The tokens of a text by the tokenizer of every folder that has one.

    Raises `ValueError` if none has.
    """
    folders = list(folders)
    found = [folder for folder in folders if any((folder / file).is_file() for file in _FILES)]
    if not found:
        raise ValueError(
            explain(
                expected="a tokenizer beside the weights, in one of the folders.",
                got=f"none in {' and '.join(map(str, folders))}.",
                hint="tokenizer.save_pretrained(FOLDER), or ls.integrations.text_blocks(tokens, length).",
            )
        )
    auto = import_optional("transformers", "hf").AutoTokenizer
    read = (auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False) for folder in found)
    return [tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for tokenizer in read]
