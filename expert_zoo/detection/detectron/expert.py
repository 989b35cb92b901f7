"""The expert `detection`: boxes by any network of detectron2, from its model zoo, a YAML or a LazyConfig.

    photo -> the configuration's own size and order of channels -> its network, which normalises -> boxes in pixels of the photo

detectron2 is no package of the index and is needed on the workers only: the driver reads configurations by itself. Projects
(UniDet, ...) register themselves when their modules are imported, which ``imports`` names.

Source: Wu et al., Detectron2 (2019); the default: Mask R-CNN (arXiv:1703.06870) with RegNetX-4GF (arXiv:2003.13678), trained for
400 epochs with large-scale jitter (arXiv:2012.07177), box AP 48.6 on COCO val 2017 as stated in detectron2's MODEL_ZOO.md.

Shapes: B photos of one size, h x w the network's input, H x W pixels of a photo, N boxes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from expert_zoo.card import ExpertCard
from expert_zoo.classes import class_names as names_of
from expert_zoo.detection.boxes import checked_score
from expert_zoo.detection.detectron.checkpoint import checkpoint_of
from expert_zoo.detection.detectron.configuration import Configuration, read_configuration
from expert_zoo.detection.detectron.weight_file import read_weight_file
from expert_zoo.detection.detectron.zoo import VERSION
from expert_zoo.expert import Needs, Photo
from expert_zoo.labels import Instances, Label
from expert_zoo.networks.network_expert import NetworkExpert, to_host
from expert_zoo.networks.preprocess import Preprocess
from expert_zoo.spec import LabelSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

DEFAULT = "new_baselines/mask_rcnn_regnetx_4gf_dds_FPN_400ep_LSJ.py"
PRISMER_SIDE = 480


class Detection(NetworkExpert):
    """Boxes of one of ``class_names`` each, best first.

    config       a configuration of detectron2's model zoo ("COCO-Detection/retinanet_R_50_FPN_3x.yaml"), or the path of a YAML
                 or a LazyConfig, the same on every worker
    imports      modules to import first; "module:function": and to call with the configuration ("unidet.config:add_unidet_config")
    overrides    values by key for the configuration ({"MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.6})
    checkpoint   URL or path of a .pkl, .pth or .pt; None: what the configuration names
    class_names  a list, or a file with one on each line; None: the 80 of COCO, where the configuration is one of COCO
    min_score    boxes must have a higher one, 0 to 1; those that the configuration itself leaves out stay out
    max_boxes    on a photo, the best ones
    masks        also keep the mask of each box, where the network makes them
    recipe       best: resized as the configuration says; prismer: long side 480 pixels and BGR, whatever it says
    side         pixels of the short (prismer: long) side of the input; None: the recipe's
    weights_folder, precision, compile   as for every network (network_expert.py)

    Raises ValueError on other values and unreadable files; and from `load` where detectron2 is missing, cannot build the network,
    or says of the configuration other than the card.
    """

    needs: ClassVar[Needs] = Needs(batch_size=4, device_memory_gib=6.0, gpu=True)

    def __init__(
        self,
        *,
        config: str = DEFAULT,
        imports: Sequence[str] = (),
        overrides: Mapping[str, Any] | None = None,
        checkpoint: str | None = None,
        class_names: Sequence[str] | str | None = None,
        min_score: float = 0.5,
        max_boxes: int = 300,
        masks: bool = False,
        recipe: Literal["best", "prismer"] = "best",
        side: int | None = None,
        weights_folder: str | None = None,
        precision: str = "auto",
        compile: bool = False,
    ) -> None:
        if isinstance(imports, str) or not all(isinstance(name, str) and name for name in imports):
            raise ValueError(f"detection: imports is {imports!r}; expected a list of modules")
        if type(max_boxes) is not int or max_boxes < 1:
            raise ValueError(f"detection: max_boxes is {max_boxes!r}; expected 1 or more")
        if type(masks) is not bool:
            raise ValueError(f"detection: masks is {masks!r}; expected true or false")
        if overrides is not None and not isinstance(overrides, Mapping):
            raise ValueError(f"detection: overrides is {overrides!r}; expected values by key")
        self.configuration = read_configuration(config, overrides)
        self.imports = tuple(imports)
        self.class_names = _class_names(class_names, self.configuration)
        self.min_score, self.max_boxes, self.masks = checked_score("detection", min_score), max_boxes, masks
        super().__init__(
            checkpoint=checkpoint_of(self.configuration, checkpoint),
            preprocess=_preprocess(self.configuration, recipe, side),
            weights_folder=weights_folder,
            precision=precision,
            compile=compile,
        )
        self.card = self._card()

    def _card(self) -> ExpertCard:
        configuration = self.configuration
        zoo = configuration.path is None
        extra = {
            "imports": ", ".join(self.imports),
            "overrides": json.dumps(configuration.overrides, sort_keys=True) if configuration.overrides else "",
        }
        return ExpertCard(
            name="detection",
            summary=f"Boxes of {len(self.class_names)} classes by detectron2's {Path(configuration.name).stem}.",
            network=f"detectron2 {configuration.name if zoo else 'configuration'}, digest {configuration.digest}",
            weights=self.weights,
            preprocessing={
                **self.preprocess.card(),
                "normalisation": "the network's own",
                "padding": "the network's own",
                "precision": self.precision_rule,
                "always_float32": "regions of interest, deformable convolutions",
            },
            processing={
                "code": f"detectron2 {VERSION}",
                **{key: value for key, value in extra.items() if value},
                "min_score": f"> {self.min_score:g}",
                "max_boxes": self.max_boxes,
                "masks": self.masks,
            },
            spec=LabelSpec(
                kind="instances",
                quantity="objects",
                units="pixels of the upright image",
                convention="x right, y down; around what is visible of a thing",
                class_names=self.class_names,
            ),
            parameters=configuration.parameters,
            licence=self.checkpoint.licence,
            commercial_use=self.checkpoint.commercial_use,
            paper="Detectron2 (2019); Mask R-CNN, arXiv:1703.06870; RegNet, arXiv:2003.13678; LSJ, arXiv:2012.07177"
            if configuration.name == DEFAULT
            else "Detectron2 (2019)",
        )

    def _build(self, folder: Path) -> nn.Module:
        from expert_zoo.detection.detectron.network import (
            build_network,
            keep_float32,
            leave_out,
            number_of_classes,
            put_weights,
        )
        from expert_zoo.detection.detectron.seeds import narrowing

        path = folder / self.checkpoint.files[0].path
        weights = read_weight_file(path)
        network = build_network(
            self.configuration, self.imports, narrowed=narrowing(self.configuration) if weights.narrow else None
        )
        put_weights(network, weights, path)
        leave_out(network, masks=self.masks)
        keep_float32(network)
        classes = number_of_classes(network)
        if classes is not None and classes != len(self.class_names):
            raise ValueError(
                f"{self.configuration.name} has {classes} classes, class_names has {len(self.class_names)}; expected one name each"
            )
        return network

    def _say(self, images_B3hw: Tensor, photos: Sequence[Photo]) -> list[Label]:
        import torch

        asked = [
            {"image": image_3hw, "height": photo.height, "width": photo.width}
            for image_3hw, photo in zip(images_B3hw, photos, strict=True)
        ]
        found = [answer.get("instances") for answer in self._network(asked)]
        if any(instances is None for instances in found):
            raise ValueError(f"the network of {self.configuration.name} makes no boxes of classes")
        rows = [
            torch.cat(
                [one.pred_boxes.tensor.float(), one.scores.float()[:, None], one.pred_classes.float()[:, None]], dim=1
            )
            for one in found
        ]
        (rows_N6,) = to_host(torch.cat(rows))
        labels, start = [], 0
        for one, rows_n6, photo in zip(found, rows, photos, strict=True):
            end = start + len(rows_n6)
            labels.append(self._label(rows_N6[start:end], one, photo))
            start = end
        return labels

    def _label(self, rows_N6: NDArray[np.float32], found: Any, photo: Photo) -> Label:
        """``rows_N6``: box, score and class of each of detectron2's instances ``found``."""
        boxes_N4 = np.clip(rows_N6[:, :4], 0, np.array([photo.width, photo.height] * 2, np.float32))
        whole_N = (boxes_N4[:, 2:] > boxes_N4[:, :2]).all(axis=1) & (rows_N6[:, 4] > self.min_score)
        places = np.flatnonzero(whole_N)
        best = places[np.argsort(-rows_N6[places, 4], kind="stable")][: self.max_boxes]
        if not len(best):
            return Label.empty()
        return Label.ok(
            Instances(
                boxes_N4=boxes_N4[best],
                scores_N=rows_N6[best, 4],
                class_ids_N=rows_N6[best, 5].astype(np.int32),
                masks=_masks(found.pred_masks[best], boxes_N4[best]) if self.masks else None,
            )
        )

    def seed(self, folder: Path, *, small: bool) -> None:
        from expert_zoo.detection.detectron.seeds import write_seeded

        write_seeded(self.configuration, self.imports, folder / self.checkpoint.files[0].path, small=small)


def _masks(masks_NHW: Tensor, boxes_N4: NDArray[np.float32]) -> tuple[bytes, ...]:
    """One PNG for each box: 255 where the thing is, over the pixels that the box touches."""
    import cv2

    corners_N4 = np.concatenate([np.floor(boxes_N4[:, :2]), np.ceil(boxes_N4[:, 2:])], axis=1).astype(int)
    crops = []
    for mask_HW, (left, top, right, bottom) in zip(masks_NHW, corners_N4.tolist(), strict=True):
        (crop_hw,) = to_host(mask_HW[top:bottom, left:right])
        _, png = cv2.imencode(".png", crop_hw.astype(np.uint8) * 255)
        crops.append(png.tobytes())
    return tuple(crops)


def _preprocess(configuration: Configuration, recipe: str, side: int | None) -> Preprocess:
    if recipe == "prismer":
        return Preprocess(fit="long_side", side=PRISMER_SIDE if side is None else side, channels="BGR", scale=1.0)
    if recipe != "best":
        raise ValueError(f"detection: recipe is {recipe!r}; expected best or prismer")
    short = configuration.short if side is None else side
    longest = round(short * configuration.long / configuration.short)
    return Preprocess(fit="short_side", side=short, longest=longest, channels=configuration.channels, scale=1.0)


def _class_names(given: Sequence[str] | str | None, configuration: Configuration) -> tuple[str, ...]:
    if given is None:
        if not configuration.coco:
            raise ValueError(
                f"detection: {configuration.name} is not known to have the 80 classes of COCO; name its own by `class_names:`, "
                "a list or a file with one on each line"
            )
        return names_of("coco")
    if isinstance(given, str):
        try:
            given = Path(given).expanduser().read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"detection: class_names: cannot read {given}: {error}") from error
    names = tuple(given)
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError("detection: class_names: expected a name for each class, none of them blank")
    return names
