"""Random crops and mirror images, for training only; measurements use the images as they are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lerpscape.base.errors import explain


def augment(inputs: Tensor, generator: torch.Generator, crop: int = 4, flip: bool = True) -> Tensor:
    """Shift each image by up to `crop` pixels in both directions, filling with zeros, and mirror half of them.

    `inputs` have shape (n, channels, height, width) and any type; the same generator state gives the same images. As
    the transform of `Split.batch` it acts on the stored pixels, so that the filling is black and not the mean pixel (He
    et al. 2016, after Lee et al. 2015).

    Raises `ValueError` for inputs of another shape.

    >>> image = torch.arange(1, 5, dtype=torch.uint8).reshape(1, 1, 2, 2)
    >>> augment(image, torch.Generator().manual_seed(1), crop=1, flip=False).shape
    torch.Size([1, 1, 2, 2])
    """
    if inputs.dim() != 4:
        raise ValueError(
            explain(
                expected="images of shape (n, channels, height, width) to augment.",
                got=f"shape {tuple(inputs.shape)}.",
                hint="Set crop = 0 and flip = false for other data.",
            )
        )
    n, channels, height, width = inputs.shape
    device = inputs.device
    top, left = torch.randint(2 * crop + 1, (2, n), generator=generator).to(device)
    mirrored = torch.randint(2, (n,), generator=generator).to(device).bool() & flip
    rows = top[:, None] + torch.arange(height, device=device)
    columns = left[:, None] + torch.arange(width, device=device)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    indices = (rows[:, :, None] * (width + 2 * crop) + columns[:, None, :]).flatten(1)
    padded = F.pad(inputs, (crop,) * 4).flatten(2)
    return padded.gather(2, indices[:, None].expand(-1, channels, -1)).view(inputs.shape)
