"""3 × 3 convolutions with a quarter of the multiplications (Winograd 1980; Lavin & Gray 2016).

A tile of 4 × 4 results comes from 6 × 6 pixels d as Aᵀ[(GwGᵀ) ⊙ (BᵀdB)]A, with 36 products for each pair of channels
in place of 144. Added up over channels they are 36 products of matrices; the rest are additions in each channel.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from lerpscape import duals
from lerpscape.buffers import Buffers
from lerpscape.compiling import in_threads, parts

# Bytes of the tiles at work, and how many there are at least, as matrices of few rows are slow to multiply.
TILES_BYTES, FEWEST_TILES = 1 << 20, 256
# Multiplications that take as long as turning a number into a tile or out of it, and a weight into 36 for each batch.
TURNING, MAKING = 70, 2000
# So much cheaper must it be, by these numbers.
WORTH_TILING = 0.85
# 24 times what stands for a filter's row, by the points 0, ±1, ±2 and ∞.
G = ((6, 0, 0), (-4, -4, -4), (-4, 4, -4), (1, 2, 4), (1, -2, 4), (0, 0, 24))
PADDINGS: dict[object, int] = {(0, 0): 0, (1, 1): 1, "valid": 0, "same": 1}


def saved_by_tiles(layer: nn.Conv2d, images: torch.Size, examples: int) -> float:
    """How many multiplications tiles save for each of so many examples at once; 0 where they cannot stand for a layer.

    >>> layers = nn.Conv2d(256, 256, 3), nn.Conv2d(256, 256, 3, stride=2), nn.Conv2d(256, 4, 3)
    >>> [saved_by_tiles(layer, torch.Size((1, 256, 10, 10)), 100) > 0 for layer in layers]
    [True, False, False]
    """
    plain = (layer.kernel_size, layer.stride, layer.dilation, layer.groups) == ((3, 3), (1, 1), (1, 1), 1)
    if not plain or layer.padding_mode != "zeros" or layer.padding not in PADDINGS or len(images) != 4:
        return 0.0
    height, width = _size(layer, images)
    tiles, products = -(-height // 4) * -(-width // 4), layer.in_channels * layer.out_channels
    turning = TURNING * (layer.in_channels + layer.out_channels)
    direct = 9.0 * products * height * width
    tiled = 36 * tiles * (products + turning) + MAKING * products / examples
    return direct - tiled if tiled < WORTH_TILING * direct else 0.0


def tiled_convolution(
    layer: nn.Conv2d, inputs: Tensor, weight: Tensor, bias: Tensor | None, buffers: Buffers
) -> Tensor:
    """What a layer gives at these tensors, dual where any of them is.

    >>> layer, images = nn.Conv2d(2, 3, 3, padding=1).requires_grad_(False), torch.ones(1, 2, 8, 8)
    >>> found = tiled_convolution(layer, images, layer.weight, layer.bias, Buffers())
    >>> torch.allclose(found, layer(images), atol=1e-5)
    True
    """
    values, moving = duals.split(inputs)
    start, moved = duals.split(weight)
    offset, shift = (None, None) if bias is None else duals.split(bias)
    result = _convolved(layer, [(values, start)], offset, buffers)
    terms = [(x, w) for x, w in ((values, moved), (moving, start)) if x is not None and w is not None]
    if terms:
        return duals.dual(result, _convolved(layer, terms, shift, buffers))
    return result if shift is None else duals.dual(result, shift[:, None, None].expand_as(result))


def turned(weight: Tensor, into: Tensor | None = None) -> Tensor:
    """GwGᵀ of every filter w of a layer's weights (outputs, inputs, 3, 3): (36, inputs, outputs).

    `into` is memory for it, (36, outputs · inputs).

    >>> turned(torch.ones(5, 2, 3, 3)).shape
    torch.Size([36, 2, 5])
    """
    each = weight.new_tensor(G) / 24
    filters = weight.permute(2, 3, 0, 1).reshape(9, -1)
    return torch.mm(torch.kron(each, each), filters, out=into).view(36, *weight.shape[:2]).transpose(1, 2)


def _convolved(layer: nn.Conv2d, terms: list[tuple[Tensor, Tensor]], bias: Tensor | None, buffers: Buffers) -> Tensor:
    """The sum of images convolved with weights."""
    from lerpscape.winograd_kernels import cut, join

    images, weight = terms[0]
    height, width = _size(layer, images.shape)
    (outer, inner), rows, columns = weight.shape[:2], -(-height // 4), -(-width // 4)
    pictures = [each.detach().permute(0, 2, 3, 1).contiguous() for each, _ in terms]  # as they lie with channels last
    matrices = [turned(each.detach(), buffers.at(k, (36, outer * inner), images)) for k, (_, each) in enumerate(terms)]
    result = images.new_empty(len(images), 4 * rows, 4 * columns, outer)
    fewest = -(-FEWEST_TILES // (rows * columns))
    step = max(TILES_BYTES // (36 * rows * columns * inner * images.element_size()), fewest)
    for first in range(0, len(images), step):
        into = result[first : first + step]
        threads = parts(len(into))
        products = buffers.at("products", (36, len(into) * rows * columns, outer), images)
        for k, (each, matrix) in enumerate(zip(pictures, matrices, strict=True)):
            tiles = buffers.at("tiles", (36, len(into), rows * columns, inner), images)
            some = each[first : first + step].numpy()
            in_threads([partial(cut, some, PADDINGS[layer.padding], tiles.numpy(), *part) for part in threads])
            torch.baddbmm(products, tiles.flatten(1, 2), matrix, beta=min(k, 1), out=products)
        if bias is not None:
            products[7] += bias.detach()  # row 1 and column 1 of the 6 × 6: what is the same in all of the 4 × 4
        found = products.view(36, len(into), -1, outer).numpy()
        in_threads([partial(join, found, into.numpy(), *part) for part in threads])
    return result.permute(0, 3, 1, 2)[:, :, :height, :width]


def _size(layer: nn.Conv2d, images: torch.Size) -> tuple[int, int]:
    """Height and width of the results."""
    around = 2 * PADDINGS[layer.padding] - 2
    return images[2] + around, images[3] + around
