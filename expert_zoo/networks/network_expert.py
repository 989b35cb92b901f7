"""NetworkExpert: what all experts with a torch network share, from the verified checkpoint to the copy back to the host.

    photos -> groups of one input size -> uint8 to the device, resized and normalised there -> network -> one copy back

Photos of one size are computed together; nothing is ever padded, so a label depends on its photo alone (up to the rounding
of sums that a library orders by the size of the batch).
"""

from __future__ import annotations

import gc
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from expert_zoo.card import Weights
from expert_zoo.expert import Expert, Photo
from expert_zoo.labels import Label
from expert_zoo.networks.preprocess import Preprocess
from expert_zoo.weights.checkpoint import Checkpoint
from expert_zoo.weights.folder import WeightsFolder

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Half = Literal["float16", "bfloat16"]

#: Why a label failed whose network overflowed. Where nothing else would tell: NaN finds no box, and is the largest of all classes.
NOT_FINITE = "not finite: the network says NaN or infinity of this photo; `precision: float32` has more room"


class NetworkExpert(Expert):
    """An expert around one torch network. A subclass sets ``card`` and writes `_build`, `_say` and `seed`.

    weights_folder: where checkpoints lie; None: $EXPERT_LABELS_WEIGHTS, else the user's cache.
    precision: "auto": float32 on a CPU, on CUDA mixed with the type in ``half``; "float32" everywhere.
    compile: torch.compile the network; the first photos of every input size then take minutes.

    Raises ValueError on other values.
    """

    #: Mixed precision on CUDA: float16 has finer steps (maps), bfloat16 more room (transformers that overflow float16).
    half: ClassVar[Half] = "float16"

    def __init__(
        self,
        *,
        checkpoint: Checkpoint,
        preprocess: Preprocess,
        weights_folder: str | None,
        precision: str,
        compile: bool,
    ) -> None:
        if precision not in ("auto", "float32"):
            raise ValueError(f"precision is {precision!r}; expected auto or float32")
        if type(compile) is not bool:
            raise ValueError(f"compile is {compile!r}; expected true or false")
        self.checkpoint = checkpoint
        self.preprocess = preprocess
        self.folder = WeightsFolder(weights_folder)
        self._precision = precision
        self._compile = compile
        self._network: Any = None
        self._device = "cpu"

    @property
    def weights(self) -> tuple[Weights, ...]:
        """The checkpoint's files for the card, with their digests as far as they are known."""
        return self.folder.weights(self.checkpoint)

    @property
    def precision_rule(self) -> str:
        """For the card's preprocessing["precision"]."""
        return "float32" if self._precision == "float32" else f"float32 on a CPU, mixed {self.half} on CUDA"

    @abstractmethod
    def _build(self, folder: Path) -> nn.Module:
        """The network with the checkpoint's weights, on the CPU. Raises ValueError where they do not fit it."""

    @abstractmethod
    def _say(self, images_B3hw: Tensor, photos: Sequence[Photo]) -> list[Label]:
        """Labels of photos of one input size. ``images_B3hw``: float32 on the device; runs without gradients."""

    @abstractmethod
    def seed(self, folder: Path, *, small: bool) -> None:
        """Write a checkpoint of seeded random weights, in the real format, into ``folder``: for tests and benchmarks.

        small: the same architecture with few and narrow layers; else its full size.
        """

    def load(self, device: str) -> None:
        """Raises ValueError where the checkpoint is missing, damaged or another network's."""
        import torch

        self._device = device
        keep_float32_whole()
        network = self._build(self.folder.verified(self.checkpoint, expert=self.card.name)).eval().requires_grad_(False)
        network = network.to(device).to(memory_format=torch.channels_last)
        self._network = torch.compile(network) if self._compile else network

    def release(self) -> None:
        self._network = None
        if self._device != "cpu":
            import torch

            from expert_zoo.networks import upload

            upload.forget()
            gc.collect()  # a network may hold itself in a cycle, and with it the device's memory
            torch.cuda.empty_cache()

    def prefetch(self, photo: Photo) -> None:
        if self._device != "cpu":
            import torch

            from expert_zoo.networks import upload

            upload.send(torch.device(self._device), photo)

    def label(self, photos: Sequence[Photo]) -> list[Label]:
        """One Label per photo, in order; photos of one input size are computed together."""
        import torch

        if self._network is None:
            self.load(self._device)
        groups: dict[tuple[int, int], list[int]] = {}
        for place, photo in enumerate(photos):
            groups.setdefault(self.preprocess.size(photo.height, photo.width), []).append(place)
        labels: dict[int, Label] = {}
        with torch.inference_mode(), self._autocast():
            for size, places in groups.items():
                members = [photos[place] for place in places]
                said = self._say(self.inputs(members, size), members)
                labels |= zip(places, said, strict=True)
        return [labels[place] for place in range(len(photos))]

    def inputs(self, photos: Sequence[Photo], size: tuple[int, int]) -> Tensor:
        """float32 B x 3 x h x w on the expert's device: what the network is fed for ``photos`` at ``size`` (h, w)."""
        import torch

        images_B3hw = self.preprocess.images(photos, size, torch.device(self._device))
        return images_B3hw.contiguous(memory_format=torch.channels_last)

    def _autocast(self) -> AbstractContextManager[Any]:
        import torch

        if self._precision == "float32" or not self._device.startswith("cuda"):
            return nullcontext()
        dtype = torch.float16 if self.half == "float16" or not torch.cuda.is_bf16_supported() else torch.bfloat16
        return torch.autocast("cuda", dtype=dtype)


def keep_float32_whole() -> None:
    """Else cuDNN computes convolutions of float32 with 11 bits of it on a GPU (TF32), no more than float16 has.

    Set for the process, so every expert with a torch network does it: a label must not depend on who else is in the pack.
    """
    import torch

    torch.backends.cudnn.allow_tf32 = False


def to_host(*tensors: torch.Tensor) -> list[NDArray[Any]]:
    """NumPy arrays of ``tensors`` after one wait for the device; half precision comes back as float32."""
    import torch

    half = (torch.float16, torch.bfloat16)
    widened = [tensor.float() if tensor.dtype in half else tensor for tensor in tensors]
    copies = [tensor.to("cpu", non_blocking=True) for tensor in widened]
    if any(tensor.is_cuda for tensor in tensors):
        torch.cuda.current_stream().synchronize()
    return [np.ascontiguousarray(copy.numpy()) for copy in copies]
