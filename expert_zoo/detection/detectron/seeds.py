"""Checkpoints of seeded random weights for any configuration of detectron2, in its own formats: for tests and benchmarks.

Random weights see nothing; those of the last layers are scaled so that some boxes are sure of themselves all the same, else
every label were empty and no test of labels could fail.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expert_zoo.detection.detectron.configuration import Configuration, Overrides
from expert_zoo.detection.detectron.network import build_network

if TYPE_CHECKING:
    from torch import Tensor, nn

#: What makes a network narrow: ResNet and heads of a YAML (32 channels, or its group normalisation cannot be built), and of the
#: LazyConfigs with a RegNet in detectron2's model zoo.
NARROW_YAML: Overrides = {
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 32,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 32,
    "MODEL.RESNETS.NUM_GROUPS": 1,
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.FPN.OUT_CHANNELS": 32,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 64,
    "MODEL.ROI_BOX_HEAD.CONV_DIM": 32,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 32,
}
_HEADS, _REGNET = "model.roi_heads", "model.backbone.bottom_up"
NARROW_REGNET: Overrides = {
    f"{_REGNET}.stem_width": 8,
    f"{_REGNET}.depth": 6,
    f"{_REGNET}.w_a": 16.0,
    f"{_REGNET}.w_0": 16,
    f"{_REGNET}.w_m": 2.0,
    f"{_REGNET}.group_width": 8,
    "model.backbone.out_channels": 32,
    "model.proposal_generator.head.in_channels": 32,
    f"{_HEADS}.box_head.input_shape.channels": 32,
    f"{_HEADS}.box_head.conv_dims": [32],
    f"{_HEADS}.box_head.fc_dims": [64],
    f"{_HEADS}.box_predictor.input_shape.channels": 64,
    f"{_HEADS}.mask_head.input_shape.channels": 32,
    f"{_HEADS}.mask_head.conv_dims": [32, 32],
}
#: Standard deviations that the outputs of the last layers are brought to: sure of classes and masks, boxes near their anchors.
SPREADS = {"cls_score": 4.0, "mask_head.predictor": 4.0, "bbox_pred": 0.3, "anchor_deltas": 0.3}


def narrowing(configuration: Configuration) -> Overrides:
    """What makes the network of ``configuration`` narrow."""
    return NARROW_REGNET if configuration.is_lazy else NARROW_YAML


def write_seeded(configuration: Configuration, imports: Sequence[str], path: Path, *, small: bool) -> None:
    """Writes weights for the network of ``configuration`` to ``path``: a pickle or a torch file, as its ending says.

    small: narrow, as `narrowing` says, and the file says so too; a configuration of another family than those of detectron2's
    model zoo stays as large as it is where it has other keys. Raises ValueError as `build_network` does.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network(configuration, imports, narrowed=narrowing(configuration) if small else None).eval()
        _spread(network)
    values = {name: value.clone() for name, value in network.state_dict().items()}
    said: dict[str, Any] = {"__author__": "seeded random weights", "narrow": small}
    if path.suffix != ".pkl":
        torch.save({"model": values, **said}, path)
        return
    with path.open("wb") as stream:
        pickle.dump({"model": {name: value.numpy() for name, value in values.items()}, **said}, stream, protocol=4)


def _spread(network: nn.Module) -> None:
    """Scales the weights of the last layers, so that what they say of a blurred noise image varies as in SPREADS."""
    import torch
    from torch.nn.functional import interpolate

    found: dict[nn.Module, float] = {}
    wanted = {
        module: spread
        for name, module in network.named_modules()
        for ending, spread in SPREADS.items()
        if name.endswith(ending)
    }

    def note(module: nn.Module, _: object, said: Tensor) -> None:
        spread = float(said.std(correction=0)) if said.numel() else 0.0
        found[module] = max(found.get(module, 0.0), spread)  # one layer may look at several sizes

    hooks = [module.register_forward_hook(note) for module in wanted]
    image_3hw = interpolate(255 * torch.rand(1, 3, 12, 16), (96, 128), mode="bilinear", align_corners=False)[0]
    for _ in range(2):  # only where there are boxes is there a mask
        found.clear()
        with torch.no_grad():
            network([{"image": image_3hw, "height": 96, "width": 128}])
            for module, spread in found.items():
                if spread > 0:  # not where nothing was said
                    module.weight.mul_(wanted[module] / spread)  # type: ignore[operator]
    for hook in hooks:
        hook.remove()
