"""PromptedDetector: Grounding DINO with its prompts built in; what a prompt shares with the next one is computed once.

Shapes: B photos, Q queries, C classes of a prompt, T its tokens, N = all prompts' queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from expert_zoo.detection.class_prompts import ClassPrompt


class PromptedDetector(nn.Module):
    """Every prompt's queries with the class that each fits best.

    ``detector``: a GroundingDinoForObjectDetection, whose image and text backbones are replaced by `Once` and `OneRow`.
    """

    def __init__(self, detector: Any, prompts: Sequence[ClassPrompt]) -> None:
        super().__init__()
        self.detector = detector
        self.image_backbone = detector.model.backbone = Once(detector.model.backbone)
        detector.model.text_backbone = OneRow(detector.model.text_backbone)
        self.prompts = len(prompts)
        for n, prompt in enumerate(prompts):
            self.register_buffer(f"tokens_{n}", torch.tensor([prompt.token_ids]), persistent=False)
            self.register_buffer(f"shares_{n}", torch.from_numpy(prompt.shares_CT()), persistent=False)
            self.register_buffer(f"classes_{n}", torch.tensor([span[0] for span in prompt.spans]), persistent=False)

    def forward(self, images_B3hw: Tensor) -> Tensor:
        """B x N x 7 float32: centre x, centre y, width, height in shares of the photo, score, class id, prompt."""
        self.image_backbone.forget()
        found = [self._of_prompt(images_B3hw, n) for n in range(self.prompts)]
        self.image_backbone.forget()
        return torch.cat(found, dim=1)

    def _of_prompt(self, images_B3hw: Tensor, n: int) -> Tensor:
        tokens_1T: Tensor = getattr(self, f"tokens_{n}")
        shares_CT: Tensor = getattr(self, f"shares_{n}")
        classes_C: Tensor = getattr(self, f"classes_{n}")
        out = self.detector(pixel_values=images_B3hw, input_ids=tokens_1T.expand(len(images_B3hw), -1))
        tokens_BQT = out.logits[..., : shares_CT.shape[1]].float().sigmoid()
        with torch.autocast(images_B3hw.device.type, enabled=False):
            scores_BQC = tokens_BQT @ shares_CT.T
        scores_BQ, places_BQ = scores_BQC.max(dim=2)
        rest_BQ3 = torch.stack([scores_BQ, classes_C[places_BQ].float(), torch.full_like(scores_BQ, n)], dim=2)
        return torch.cat([out.pred_boxes.float(), rest_BQ3], dim=2)


class Once(nn.Module):
    """The image backbone, asked once for the images that all prompts are about."""

    def __init__(self, part: Any) -> None:
        super().__init__()
        self.part = part
        self.position_embedding = part.position_embedding
        self._said: tuple[Any, Any] | None = None

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor) -> tuple[list[Any], list[Any]]:
        if self._said is None:
            self._said = self.part(pixel_values, pixel_mask)
        features, positions = self._said
        return list(features), list(positions)  # copies, because the network appends to them

    def forget(self) -> None:
        self._said = None


class OneRow(nn.Module):
    """The text backbone, asked of one row for a batch in which all rows are the same prompt."""

    def __init__(self, part: Any) -> None:
        super().__init__()
        self.part = part

    def forward(self, *rows: Tensor, **options: Any) -> Any:
        out = self.part(*(row[:1] for row in rows), **options)
        out["last_hidden_state"] = out.last_hidden_state.expand(len(rows[0]), -1, -1)
        return out
