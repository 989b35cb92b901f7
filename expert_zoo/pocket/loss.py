"""What the pocket network is trained to: one loss per head.

Shapes as in `network`; K rows of boxes per image, class id -1 where unused.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from expert_zoo.pocket.network import CELL
from manifests.scenes.world import THINGS

WEIGHTS = {"depth": 2.0, "normal": 1.5, "edge": 1.0, "classes": 1.0, "heat": 1.0, "box": 1.0}


def losses(out: dict[str, Tensor], target: dict[str, Tensor]) -> dict[str, Tensor]:
    """Unweighted loss of each head. Targets: depth (B, H, W), normal (B, 3, H, W), edge (B, H, W) in {0, 1}, classes (B, H, W) ids,
    boxes (B, K, 4) and things (B, K)."""
    heat, cells, boxes = centre_targets(target["boxes"], target["things"], out["heat"].shape[-2:])
    b, i, j = cells
    found = out["box"][b, :, i, j]
    middle = torch.stack([j, i], dim=1) * CELL + CELL / 2
    predicted = torch.cat([middle - found[:, :2], middle + found[:, 2:]], dim=1)
    return {
        "depth": (out["depth"].log() - target["depth"].log()).abs().mean(),
        "normal": (1 - (out["normal"] * target["normal"]).sum(dim=1)).mean(),
        "edge": F.binary_cross_entropy_with_logits(out["edge"], target["edge"], pos_weight=torch.tensor(3.0)),
        "classes": F.cross_entropy(out["classes"], target["classes"]),
        "heat": centre_focal_loss(out["heat"], heat),
        "box": giou_loss(predicted, boxes),
    }


def centre_targets(
    boxes_BK4: Tensor, things_BK: Tensor, grid: torch.Size
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor], Tensor]:
    """Gaussian heatmap (B, 5, h, w) with 1 at centre cells; (image, row, column) of the cells that learn a box; those boxes (P, 4)."""
    h, w = grid
    B, K = things_BK.shape
    heat = torch.zeros(B, len(THINGS), h, w)
    ys, xs = torch.arange(h, dtype=torch.float32), torch.arange(w, dtype=torch.float32)
    rows: list[tuple[int, int, int]] = []
    boxes: list[Tensor] = []
    for b in range(B):
        for k in range(K):
            thing = int(things_BK[b, k])
            if thing < 0:
                continue
            x0, y0, x1, y1 = (float(c) / CELL for c in boxes_BK4[b, k])
            j, i = min(int((x0 + x1) / 2), w - 1), min(int((y0 + y1) / 2), h - 1)
            spread_x, spread_y = max((x1 - x0) / 8, 0.7), max((y1 - y0) / 8, 0.7)
            bell = torch.exp(-((ys[:, None] - i) ** 2) / (2 * spread_y**2) - (xs - j) ** 2 / (2 * spread_x**2))
            heat[b, thing] = torch.maximum(heat[b, thing], bell)
            for di in (-1, 0, 1):
                for dj in (-1, 0, 1):
                    if 0 <= i + di < h and 0 <= j + dj < w:
                        rows.append((b, i + di, j + dj))
                        boxes.append(boxes_BK4[b, k])
    image, row, column = torch.tensor(rows).unbind(dim=1)
    return heat, (image, row, column), torch.stack(boxes)


def centre_focal_loss(logits: Tensor, heat: Tensor) -> Tensor:
    """Penalty-reduced focal loss per centre ("Objects as Points", eq. 1; alpha 2, beta 4)."""
    p = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    centre = heat == 1
    at_centres = -((1 - p[centre]) ** 2 * p[centre].log()).sum()
    elsewhere = -((1 - heat) ** 4 * p**2 * (1 - p).log() * ~centre).sum()
    return (at_centres + elsewhere) / centre.sum().clamp(min=1)


def giou_loss(a_P4: Tensor, b_P4: Tensor) -> Tensor:
    """Mean of 1 - generalised IoU (Rezatofighi et al. 2019) of box pairs xyxy."""
    area = (a_P4[:, 2:] - a_P4[:, :2]).prod(dim=1) + (b_P4[:, 2:] - b_P4[:, :2]).prod(dim=1)
    overlap = (
        (torch.minimum(a_P4[:, 2:], b_P4[:, 2:]) - torch.maximum(a_P4[:, :2], b_P4[:, :2])).clamp(min=0).prod(dim=1)
    )
    hull = (torch.maximum(a_P4[:, 2:], b_P4[:, 2:]) - torch.minimum(a_P4[:, :2], b_P4[:, :2])).prod(dim=1)
    union = area - overlap
    return (1 - overlap / union + (hull - union) / hull).mean()
