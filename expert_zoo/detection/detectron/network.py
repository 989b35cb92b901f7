"""A network of detectron2 from its configuration and a file of weights: the only module that imports detectron2.

Nothing is downloaded: weights that the configuration names for its own use are never looked at.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expert_zoo.detection.detectron.configuration import (
    CHANNELS_KEY,
    INPUT_KEYS,
    LONG_KEY,
    SHORT_KEY,
    Configuration,
    Overrides,
    check_zoo_file,
)
from expert_zoo.detection.detectron.weight_file import WeightFile
from expert_zoo.detection.detectron.zoo import INSTALL, VERSION
from expert_zoo.networks.state_dict import fill

if TYPE_CHECKING:
    from torch import nn

#: A region's corners in float16 are off by up to half a pixel of the input; deformable convolutions know one precision alone
#: (detectron2's issue 2657).
IN_FLOAT32 = ("ROIPooler", "DeformConv", "ModulatedDeformConv")


def build_network(
    configuration: Configuration, imports: Sequence[str], *, narrowed: Overrides | None = None
) -> nn.Module:
    """The network with the random weights that detectron2 gives it, on the CPU.

    imports   "module", imported before, or "module:function", then called with the configuration: what registers the parts
              and the keys of a project
    narrowed  overrides beyond the configuration's own

    Raises ValueError: detectron2 is missing or another one, it cannot build the network, or it says that the configuration
    wants another input than the driver, who cannot ask it, has assumed.
    """
    folder = _detectron2()
    changes = [_imported(name) for name in imports]
    path = configuration.path or folder / "model_zoo" / "configs" / configuration.name
    if configuration.path is None:
        check_zoo_file(configuration.name, path)
    overrides = {**configuration.overrides, **(narrowed or {})}
    build = _of_lazy if configuration.is_lazy else _of_yaml
    try:
        network, said = build(path, [change for change in changes if change is not None], overrides)
    except Exception as error:  # a configuration is code: it can raise anything
        why = f"{type(error).__name__}: {error}".replace("\n", " ")
        raise ValueError(
            f"detectron2 cannot build {configuration.name} ({why}); name its project's modules under `imports:`"
        ) from error
    _check_input(configuration, said)
    return network


def put_weights(network: nn.Module, weights: WeightFile, path: Path) -> None:
    """The values of ``weights`` into ``network``, all of them and each of them. ``path``: for the message.

    Raises ValueError where names or shapes do not match.
    """
    import torch

    values = weights.values
    wanted = network.state_dict()
    if weights.by_likeness:
        from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts

        values = align_and_update_state_dicts(wanted, dict(values), c2_conversion=weights.caffe2)
    # A count of training steps: older files have none, and it decides nothing.
    counts = {name: torch.zeros_like(value) for name, value in wanted.items() if name.endswith("num_batches_tracked")}
    # Old files carry what is computed today: the anchors, and the mean and deviation that the configuration states.
    computed = [name for name in values if "cell_anchors" in name or name in ("pixel_mean", "pixel_std")]
    fill(network, {**counts, **values}, path=path, no_role=computed)


def number_of_classes(network: Any) -> int | None:
    """What the network itself says, where it says so."""
    for part in (getattr(network, "roi_heads", None), network):
        found = getattr(part, "num_classes", None)
        if isinstance(found, int):
            return found
    return None


def leave_out(network: Any, *, masks: bool) -> None:
    """Turns off what is made of each box and not asked for. Raises ValueError where masks are, and the network makes none."""
    heads = getattr(network, "roi_heads", None)
    if masks and not getattr(heads, "mask_on", True):
        raise ValueError(
            "masks: true, but the configuration's network makes none; choose one of COCO-InstanceSegmentation"
        )
    needs_masks = masks or hasattr(network, "sem_seg_head")  # a panoptic network puts them together with its stuff
    for part, wanted in (("mask_on", needs_masks), ("keypoint_on", False)):
        if getattr(heads, part, False):
            setattr(heads, part, wanted)


def keep_float32(network: nn.Module) -> None:
    """Leaves the layers in IN_FLOAT32 out of mixed precision, whatever they are part of."""
    for module in network.modules():
        if type(module).__name__ in IN_FLOAT32:
            module.forward = _widened(module.forward)


def _widened(forward: Callable[..., Any]) -> Callable[..., Any]:
    import torch

    def widened(features: Any, *others: Any) -> Any:
        """``features``: a tensor, or a list of them; so may be each of ``others``."""
        device = (features if isinstance(features, torch.Tensor) else features[0]).device
        with torch.autocast(device.type, enabled=False):
            return forward(*map(_as_float32, (features, *others)))

    return widened


def _as_float32(argument: Any) -> Any:
    import torch

    if isinstance(argument, list):
        return [_as_float32(part) for part in argument]
    return argument.float() if isinstance(argument, torch.Tensor) else argument


def _detectron2() -> Path:
    """The folder of the installed detectron2."""
    try:
        import detectron2
    except ImportError as error:
        raise ValueError(
            f"detection needs detectron2, which is in no package index ({error}); install it: {INSTALL}"
        ) from error
    if detectron2.__version__ != VERSION:
        raise ValueError(f"detectron2 {detectron2.__version__} is installed, the card states {VERSION}; {INSTALL}")
    return Path(detectron2.__file__).parent


def _imported(name: str) -> Callable[[Any], Any] | None:
    module, _, function = name.partition(":")
    try:
        found = importlib.import_module(module)
        return getattr(found, function) if function else None
    except Exception as error:  # a module of another project can raise anything
        why = f"{type(error).__name__}: {error}".replace("\n", " ")
        raise ValueError(
            f"imports: {name!r} cannot be imported ({why}); expected `module` or `module:function` on the path (PYTHONPATH)"
        ) from error


Built = tuple["nn.Module", dict[str, Any]]


def _of_yaml(path: Path, changes: Sequence[Callable[[Any], Any]], overrides: Overrides) -> Built:
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    configuration = get_cfg()
    for change in changes:
        change(configuration)
    configuration.merge_from_file(str(path))
    configuration.merge_from_list([part for pair in overrides.items() for part in pair])
    configuration.MODEL.DEVICE = "cpu"
    configuration.MODEL.WEIGHTS = ""
    said = configuration.INPUT
    rules = {SHORT_KEY: said.MIN_SIZE_TEST, LONG_KEY: said.MAX_SIZE_TEST, CHANNELS_KEY: said.FORMAT}
    return build_model(configuration), rules


def _of_lazy(path: Path, changes: Sequence[Callable[[Any], Any]], overrides: Overrides) -> Built:
    from detectron2.config import LazyConfig, instantiate

    configuration = LazyConfig.load(str(path))
    for change in changes:
        change(configuration)
    for key, value in overrides.items():
        if key not in INPUT_KEYS:
            *parts, last = key.split(".")
            node = configuration
            for part in parts:
                node = node[int(part) if part.isdecimal() else part]
            node[last] = value
    return instantiate(configuration.model), _input_of_lazy(configuration)


def _input_of_lazy(configuration: Any) -> dict[str, Any]:
    """What a LazyConfig says of its input, as far as it follows detectron2's own ones."""
    said = {}
    if channels := configuration.model.get("input_format"):
        said[CHANNELS_KEY] = channels
    mapper = configuration.get("dataloader", {}).get("test", {}).get("mapper", {})
    for step in mapper.get("augmentations", ()):
        if "short_edge_length" in step and "max_size" in step:
            said |= {SHORT_KEY: step["short_edge_length"], LONG_KEY: step["max_size"]}
    return said


def _check_input(configuration: Configuration, said: dict[str, Any]) -> None:
    assumed = {
        SHORT_KEY: configuration.short,
        LONG_KEY: configuration.long,
        CHANNELS_KEY: configuration.channels,
    }
    differing = {
        key: value for key, value in said.items() if value != assumed[key] and key not in configuration.overrides
    }
    if differing:
        wanted = ", ".join(f"{key}: {value}" for key, value in differing.items())
        card = ", ".join(f"{key}: {assumed[key]}" for key in differing)
        raise ValueError(
            f"{configuration.name} says {wanted}; the card, made without detectron2, says {card}; put `overrides: {{{wanted}}}`"
            " into the job file"
        )
