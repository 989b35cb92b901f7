"""Preprocess: the way from a photo to a network's input, on the device; the card says it in the same words that do it.

Shapes: H x W pixels of the photo, h x w of the input, B photos.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from expert_zoo.expert import Photo

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)

#: No input is longer than this many times its width: a banner of 3000x10 pixels must not become one of 144000x480.
MOST_ASPECT = 4
SMALLEST_SIDE, LARGEST_SIDE = 16, 4096


def of_recipe(recipes: Mapping[str, Preprocess], recipe: str, side: int | None) -> Preprocess:
    """The rules of ``recipe``, with ``side`` in place of its own where one is given. Raises ValueError on other values."""
    if recipe not in recipes:
        raise ValueError(f"recipe is {recipe!r}; expected {' or '.join(recipes)}")
    return recipes[recipe] if side is None else replace(recipes[recipe], side=side)


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Rules for a network's input.

    fit       squash: side x side, whatever the photo's shape; short_side, long_side: that side becomes ``side`` pixels and the
              sides' ratio is kept, up to ``multiple`` and up to 1:4, beyond which the photo is squashed
    side      pixels, 16 to 4096
    longest   short_side only: the long side is at most this many pixels, and the short one less than ``side`` where need be
    multiple  both sides of the input are multiples of it: the nearest, at least one
    channels  order in which the network wants them
    scale, mean, std   input = (pixel * scale - mean) / std, with mean and std in the order of ``channels``
    filter    antialiased where it shrinks (as Pillow's), so that no detail aliases
    """

    fit: Literal["squash", "short_side", "long_side"]
    side: int
    longest: int | None = None
    multiple: int = 1
    channels: Literal["RGB", "BGR"] = "RGB"
    scale: float = 1 / 255
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)
    filter: Literal["bilinear", "bicubic"] = "bilinear"

    def __post_init__(self) -> None:
        if type(self.side) is not int or not SMALLEST_SIDE <= self.side <= LARGEST_SIDE:
            raise ValueError(f"side is {self.side!r}; expected {SMALLEST_SIDE} to {LARGEST_SIDE} pixels")

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(h, w) of the input for a photo of ``height`` x ``width`` pixels."""
        if self.fit == "squash":
            return self._whole(self.side), self._whole(self.side)
        short, long = min(height, width), max(height, width)
        ratio = min(long / short, MOST_ASPECT)
        if self.fit == "short_side":
            small = float(self.side)
            if self.longest is not None and small * ratio > self.longest:
                small = self.longest / ratio
        else:
            small = self.side / ratio
        small_whole, large_whole = self._whole(small), self._whole(small * ratio)
        return (small_whole, large_whole) if height <= width else (large_whole, small_whole)

    def card(self) -> dict[str, str | int | float | bool | None]:
        """These rules for ExpertCard.preprocessing."""
        return {
            "channels": self.channels,
            "fit": self.fit,
            "side": self.side,
            **({} if self.longest is None else {"longest": self.longest}),
            **({} if self.fit == "squash" else {"most_aspect": MOST_ASPECT}),
            "multiple": self.multiple,
            "filter": f"{self.filter}, antialiased",
            "scale": round(self.scale, 8),
            "mean": " ".join(f"{value:g}" for value in self.mean),
            "std": " ".join(f"{value:g}" for value in self.std),
        }

    def images(self, photos: Sequence[Photo], size: tuple[int, int], device: torch.device) -> Tensor:
        """float32 B x 3 x h x w on ``device``: the photos resized to ``size`` (h, w), in order and scale of the network.

        The photos go to the device as uint8 and as they are; all else happens there.
        """
        import torch

        from expert_zoo.networks.upload import pixels_on

        images_B3hw = torch.stack([self._resized(pixels_on(device, photo), size) for photo in photos])
        if self.channels == "BGR":
            images_B3hw = images_B3hw.flip(1)
        mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (self.mean, self.std))
        return (images_B3hw * self.scale - mean) / std

    def _resized(self, pixels_HW3: Tensor, size: tuple[int, int]) -> Tensor:
        from torch.nn.functional import interpolate

        image_3HW = pixels_HW3.permute(2, 0, 1).float()
        if tuple(image_3HW.shape[1:]) == size:
            return image_3HW
        small_13hw = interpolate(image_3HW[None], size, mode=self.filter, antialias=True, align_corners=False)
        return small_13hw[0].clamp(0, 255)  # bicubic overshoots at edges

    def _whole(self, side: float) -> int:
        return max(1, round(side / self.multiple)) * self.multiple
