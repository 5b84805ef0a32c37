"""A text cut into blocks of tokens."""

from __future__ import annotations

import pytest

from lerpscape.integrations.text import text_blocks


@pytest.mark.parametrize(
    ("count", "length", "shapes"),
    [
        (12, 4, [(2, 4), (1, 4)]),
        (14, 4, [(2, 4), (1, 4), (1, 2)]),
        (13, 4, [(2, 4), (1, 4)]),  # the last token has none before it in its block
        (3, 10, [(1, 3)]),
    ],
)
def test_blocks_have_one_length_and_the_last_one_what_is_left(
    count: int, length: int, shapes: list[tuple[int, int]]
) -> None:
    blocks = text_blocks(range(count), length, batch=2)
    assert [tuple(batch["input_ids"].shape) for batch in blocks] == shapes
    assert [token for batch in blocks for token in batch["labels"].flatten().tolist()] == list(range(blocks.tokens))
    assert (blocks.blocks, blocks.tokens) == (sum(n for n, _ in shapes), sum(n * m for n, m in shapes))


@pytest.mark.parametrize(("count", "length", "batch"), [(1, 4, 2), (9, 1, 2), (9, 4, 0)])
def test_a_block_needs_two_tokens(count: int, length: int, batch: int) -> None:
    with pytest.raises(ValueError, match="first token of a block is not predicted"):
        text_blocks(range(count), length, batch)
