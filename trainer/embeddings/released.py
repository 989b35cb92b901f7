"""The label features that were released with Prismer, in the folder ``dataset`` of its repository.

    coco_features.pt, ade_features.pt, detection_features.pt   {"labels": 133, 150 or 722 names, "features": tensor, names x 64}
    background_features.pt                                     a tensor of 64
    clip_pca.pkl                                               scikit-learn's PCA of ViT-L/14's text embeddings, 768 to 64

Their licence forbids commercial use. The code runs none of what is in the files: the pickle may build arrays and nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from expert_zoo.networks.array_pickle import Fields, read_pickle
from trainer.embeddings.basis import Basis
from trainer.embeddings.clip_text import ClipTexts
from trainer.embeddings.origin import WIDTH, Origin

FEATURES = ("coco_features.pt", "ade_features.pt", "detection_features.pt")
BACKGROUND_FILE, PCA_FILE = "background_features.pt", "clip_pca.pkl"
SAMPLES = "80,000 texts of Prismer's authors"


class ReleasedFeatures(NamedTuple):
    """One of FEATURES. vectors_NC: float32."""

    path: Path
    labels: tuple[str, ...]
    vectors_NC: NDArray[np.float32]


class ReleasedEncoder:
    """Classes from those of the files in ``folder`` that are there; words by ``clip`` and the released components.

    clip: loads ViT-L/14's text encoder; called when there is a word to encode. Raises ValueError where background or all features
    are missing.
    """

    def __init__(self, folder: Path, *, clip: Callable[[], ClipTexts]) -> None:
        self.folder = folder
        self._clip = clip
        self._background_C = _numbers(_load(folder / BACKGROUND_FILE), (WIDTH,), folder / BACKGROUND_FILE)
        self._features = [read_features(folder / name) for name in FEATURES if (folder / name).is_file()]
        if not self._features:
            raise ValueError(
                f"{folder} has none of {', '.join(FEATURES)}; expected the folder `dataset` of NVlabs/prismer"
            )
        self.origin = Origin(
            method="released",
            encoder="CLIP ViT-L/14, text",
            reduction=f"{WIDTH} principal components of {SAMPLES}, digest of the background {_digest(self._background_C)}",
            licence="NVIDIA Source Code License-NC",
            commercial_use=False,
        )

    def classes(self, names: Sequence[str], *, whose: str) -> NDArray[np.float32]:
        for features in self._features:
            if len(features.labels) == len(names):
                check_order(features, names, whose=whose)
                return features.vectors_NC
        sizes = ", ".join(f"{len(features.labels)} in {features.path.name}" for features in self._features)
        raise ValueError(
            f"{whose} has {len(names)} classes, and {self.folder} has features of {sizes}; expected one of these class lists: use "
            "`--method clip`, which makes features of any"
        )

    def words(self, words: Sequence[str]) -> NDArray[np.float32]:
        return read_pca(self.folder / PCA_FILE).reduce(self._clip().encode(words))

    def background(self) -> NDArray[np.float32]:
        return self._background_C


def read_features(path: Path) -> ReleasedFeatures:
    """Raises ValueError where ``path`` is not a file of labels and features."""
    found = _load(path)
    labels = found.get("labels") if isinstance(found, Mapping) else None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels) or not labels:
        raise ValueError(f"{path} has no labels; expected the names of classes under 'labels', in order")
    vectors_NC = _numbers(found.get("features"), (len(labels), WIDTH), path)
    return ReleasedFeatures(path, tuple(label.strip() for label in labels), vectors_NC)


def check_order(features: ReleasedFeatures, names: Sequence[str], *, whose: str) -> None:
    """Raises ValueError where the file's classes cannot be ``names`` in this order.

    The authors edited the names ("door" for "door-stuff", "road, route" for "road"), so that not all can be alike. At least
    half are, and none stands at another place than its own.
    """
    places = {label: place for place, label in enumerate(features.labels)}
    alike = 0
    for place, name in enumerate(names):
        if features.labels[place] == name:
            alike += 1
        elif name in places and features.labels[places[name]] not in (names[places[name]], features.labels[place]):
            raise ValueError(
                f"{whose}: class {place} is {name!r}, in {features.path} it is {features.labels[place]!r} and {name!r} is class "
                f"{places[name]}; expected the same classes in the same order: use `--method clip`, which makes features of any"
            )
    if 2 * alike < len(names):
        raise ValueError(
            f"{whose}: {alike} of {len(names)} classes are called as in {features.path}; expected the same classes in the same "
            "order: use `--method clip`, which makes features of any"
        )


def read_pca(path: Path) -> Basis:
    """The mean and the components of scikit-learn's PCA. Raises ValueError, also where the pickle wants more than arrays."""
    if not path.is_file():
        raise ValueError(f"no file {path}; words need it, expected the folder `dataset` of NVlabs/prismer")
    held = read_pickle(path, expected="scikit-learn's PCA", objects=(("sklearn.decomposition._pca", "PCA"),))
    mean, components = (vars(held).get(name) if isinstance(held, Fields) else None for name in ("mean_", "components_"))
    if not isinstance(mean, np.ndarray) or not isinstance(components, np.ndarray) or vars(held).get("whiten"):
        raise ValueError(
            f"{path} holds no mean and components, or scales them; expected scikit-learn's PCA without whitening"
        )
    if mean.ndim != 1 or components.shape != (WIDTH, len(mean)):
        raise ValueError(f"{path}: components of shape {components.shape}; expected {WIDTH} of the encoder's width")
    return Basis(
        mean_D=mean.astype(np.float64),
        components_CD=components.astype(np.float64),
        encoder="CLIP ViT-L/14, text",
        fitted_on=SAMPLES,
        kept=float(np.sum(vars(held).get("explained_variance_ratio_", 0.0))),
    )


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"no file {path}; expected the folder `dataset` of NVlabs/prismer") from None
    except Exception as error:  # torch raises four kinds, most with a page of text
        raise ValueError(f"{path} is no file of features: {str(error).strip().partition(chr(10))[0]}") from error


def _numbers(found: object, shape: tuple[int, ...], path: Path) -> NDArray[np.float32]:
    if not isinstance(found, torch.Tensor) or found.shape != shape or not found.isfinite().all():
        told = f"a tensor of {tuple(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
        raise ValueError(f"{path} holds {told}; expected {' x '.join(map(str, shape))} finite numbers")
    return found.float().numpy()


def _digest(numbers: NDArray[np.float32]) -> str:
    return hashlib.sha256(numbers.astype("<f4").tobytes()).hexdigest()[:16]
