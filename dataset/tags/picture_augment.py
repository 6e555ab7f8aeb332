"""Vary pictures for training without losing what a detector looks for.

Nothing is cut off or covered, because a watermark may lie in a corner: a picture may only shrink within its square, the
rest of which repeats its edge. Brightness, contrast, saturation and grain vary. Rejected: crops and erased patches, for
that reason; mirrored pictures, because writing in a mirror is not a watermark.
"""

import torch
from torch.nn import functional

SMALLEST = 0.85  # of the side
BRIGHTNESS = 25.0  # levels of 255
CONTRAST = (0.8, 1.25)
SATURATION = (0.4, 1.4)
GRAIN = 8.0  # standard deviation in levels, at most
_LUMA = (0.299, 0.587, 0.114)


def varied(squares: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return varied squares (B, side, side, 3) float32 of 0 to 255, for uint8 ones; `generator` is on their device."""
    count = len(squares)

    def drawn(low: float, high: float) -> torch.Tensor:  # (B, 1, 1, 1)
        values = torch.rand(count, 1, 1, 1, generator=generator, device=squares.device)
        return low + (high - low) * values

    pixels = _shrunk(squares.permute(0, 3, 1, 2).float(), drawn(SMALLEST, 1.0), drawn(-1, 1), drawn(-1, 1))
    luma = torch.tensor(_LUMA, device=squares.device).view(1, 3, 1, 1)
    grey = (pixels * luma).sum(dim=1, keepdim=True)  # (B, 1, side, side)
    pixels = grey + (pixels - grey) * drawn(*SATURATION)
    middle = grey.mean(dim=(2, 3), keepdim=True)
    pixels = middle + (pixels - middle) * drawn(*CONTRAST) + drawn(-BRIGHTNESS, BRIGHTNESS)
    grain = torch.randn(grey.shape, generator=generator, device=squares.device) * drawn(0, GRAIN)
    return (pixels + grain).clamp(0, 255).permute(0, 2, 3, 1)


def _shrunk(pixels: torch.Tensor, scale: torch.Tensor, right: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """Return pictures (B, 3, side, side) at `scale` of their size; `right` and `down` of -1 to 1 place them."""
    count = len(pixels)
    to_source = torch.zeros(count, 2, 3, device=pixels.device)
    to_source[:, 0, 0] = to_source[:, 1, 1] = 1 / scale.view(count)
    room = ((1 - scale) / scale).view(count)
    to_source[:, 0, 2], to_source[:, 1, 2] = -room * right.view(count), -room * down.view(count)
    grid = functional.affine_grid(to_source, list(pixels.shape), align_corners=False)
    return functional.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
