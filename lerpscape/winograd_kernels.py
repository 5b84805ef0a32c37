"""Pictures cut into tiles for 3 × 3 convolutions, and put together again: loops that numba compiles.

Innermost loops run over channels, which lie side by side in memory, and what they write at all steps of the loop
around them lies apart: only then does the compiler take many numbers at a time.
"""

from __future__ import annotations

import numpy as np

from lerpscape.compiling import compiled, inlined
from lerpscape.monotonicity import Floats


@inlined
def spread(
    a: float, b: float, c: float, d: float, e: float, f: float, two: float, four: float, five: float
) -> tuple[float, float, float, float, float, float]:
    """Bᵀ times six numbers."""
    even, odd = e - four * c, d - four * b
    near, far = e - c, two * (d - b)
    return four * a - five * c + e, even + odd, even - odd, near + far, near - far, four * b - five * d + f


@compiled
def cut(pictures: Floats, padding: int, tiles: Floats, first: int, stop: int) -> None:
    """BᵀdB of every tile d of 6 × 6 of the pictures from `first` to `stop`; neighbours share two rows or columns.

    `pictures` (examples, height, width, channels), with zeros around them; `tiles` (36, examples, rows · columns,
    channels), a tile for each 4 × 4 of the convolution's results.

    >>> pictures, tiles = np.zeros((1, 4, 4, 1)), np.empty((36, 1, 1, 1))
    >>> pictures[0, 0, 0] = 1.0
    >>> cut(pictures, 1, tiles, 0, 1)
    >>> tiles.reshape(6, 6)[1].tolist()  # d is 1 in row 1 and column 1: −4 times Bᵀ's column 1
    [0.0, 16.0, -16.0, 8.0, -8.0, -16.0]
    """
    _, height, width, channels = pictures.shape
    rows, columns = (height + 2 * padding + 1) // 4, (width + 2 * padding + 1) // 4
    two, four, five = pictures.dtype.type(2), pictures.dtype.type(4), pictures.dtype.type(5)
    edge = np.empty((6, width, channels), pictures.dtype)
    held = np.zeros((6, 4 * columns + 2, channels), pictures.dtype)
    for picture in range(first, stop):
        for row in range(rows):
            top, lines = 4 * row - padding, pictures[picture]
            if top < 0 or top + 6 > height:
                for line in range(6):
                    if 0 <= top + line < height:
                        edge[line] = lines[top + line]
                    else:
                        edge[line] = 0
                top, lines = 0, edge
            for column in range(width):
                into = padding + column
                for k in range(channels):
                    a, b, c = lines[top, column, k], lines[top + 1, column, k], lines[top + 2, column, k]
                    d, e, f = lines[top + 3, column, k], lines[top + 4, column, k], lines[top + 5, column, k]
                    g, h, i, j, m, n = spread(a, b, c, d, e, f, two, four, five)
                    held[0, into, k], held[1, into, k], held[2, into, k] = g, h, i
                    held[3, into, k], held[4, into, k], held[5, into, k] = j, m, n
            for line in range(6):
                for column in range(columns):
                    place, left = row * columns + column, 4 * column
                    for k in range(channels):
                        a, b, c = held[line, left, k], held[line, left + 1, k], held[line, left + 2, k]
                        d, e, f = held[line, left + 3, k], held[line, left + 4, k], held[line, left + 5, k]
                        g, h, i, j, m, n = spread(a, b, c, d, e, f, two, four, five)
                        tiles[6 * line, picture, place, k] = g
                        tiles[6 * line + 1, picture, place, k] = h
                        tiles[6 * line + 2, picture, place, k] = i
                        tiles[6 * line + 3, picture, place, k] = j
                        tiles[6 * line + 4, picture, place, k] = m
                        tiles[6 * line + 5, picture, place, k] = n


@compiled
def join(tiles: Floats, pictures: Floats, first: int, stop: int) -> None:
    """AᵀmA of every tile m, for the pictures from `first` to `stop`.

    `tiles` (36, examples, rows · columns, channels), `pictures` (examples, 4 · rows, 4 · columns, channels).

    >>> tiles, pictures = np.zeros((36, 1, 1, 1)), np.empty((1, 4, 4, 1))
    >>> tiles[7 + 6] = 1.0  # row 2 and column 1 of the 6 × 6
    >>> join(tiles, pictures, 0, 1)
    >>> pictures[0, :, 0, 0].tolist()
    [1.0, -1.0, 1.0, -1.0]
    """
    _, height, width, channels = pictures.shape
    rows, columns = height // 4, width // 4
    two, four, eight = tiles.dtype.type(2), tiles.dtype.type(4), tiles.dtype.type(8)
    held = np.empty((4, 6, channels), tiles.dtype)
    for picture in range(first, stop):
        for row in range(rows):
            for column in range(columns):
                place = row * columns + column
                for line in range(6):
                    for k in range(channels):
                        b, c = tiles[6 + line, picture, place, k], tiles[12 + line, picture, place, k]
                        d, e = tiles[18 + line, picture, place, k], tiles[24 + line, picture, place, k]
                        a, f = tiles[line, picture, place, k], tiles[30 + line, picture, place, k]
                        held[0, line, k] = a + (b + c) + (d + e)
                        held[1, line, k] = (b - c) + two * (d - e)
                        held[2, line, k] = (b + c) + four * (d + e)
                        held[3, line, k] = (b - c) + eight * (d - e) + f
                for line in range(4):
                    below, left = 4 * row + line, 4 * column
                    for k in range(channels):
                        even, far = held[line, 1, k] + held[line, 2, k], held[line, 3, k] + held[line, 4, k]
                        pictures[picture, below, left, k] = held[line, 0, k] + even + far
                    for k in range(channels):
                        odd, far = held[line, 1, k] - held[line, 2, k], held[line, 3, k] - held[line, 4, k]
                        pictures[picture, below, left + 1, k] = odd + two * far
                    for k in range(channels):
                        even, far = held[line, 1, k] + held[line, 2, k], held[line, 3, k] + held[line, 4, k]
                        pictures[picture, below, left + 2, k] = even + four * far
                    for k in range(channels):
                        odd, far = held[line, 1, k] - held[line, 2, k], held[line, 3, k] - held[line, 4, k]
                        pictures[picture, below, left + 3, k] = odd + eight * far + held[line, 5, k]
