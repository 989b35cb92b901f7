"""Basis: from the text encoder's width to 64 channels by principal components, one basis for all tables of an encoder.

It is fitted on the whole words of the encoder's own vocabulary. A table by itself would not do: 7 classes span 7 directions, and
classes, words on signs and background must lie in one space, also those that are encoded later.

Shapes: N texts, D the encoder's width, C = 64 channels.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from trainer.embeddings.origin import WIDTH
from trainer.embeddings.table import metadata_of

_KEY = "basis"


@dataclass(frozen=True, kw_only=True, eq=False)
class Basis:
    """mean_D, components_CD: float64, the components orthonormal. encoder: whose vectors it reduces. fitted_on: in words, with
    their number. kept: share of their variance that is left, 0 to 1; 0 where unknown."""

    mean_D: NDArray[np.float64]
    components_CD: NDArray[np.float64]
    encoder: str
    fitted_on: str
    kept: float

    def reduce(self, vectors_ND: NDArray[np.floating]) -> NDArray[np.float32]:
        """N x C. Neither scaled nor made one long: the length of a vector is left to the model, as in the released tables."""
        return ((vectors_ND - self.mean_D) @ self.components_CD.T).astype(np.float32)

    @property
    def summary(self) -> str:
        """For an Origin: decides a vector, so it has the digest of the numbers."""
        numbers = self.mean_D.astype("<f4").tobytes() + self.components_CD.astype("<f4").tobytes()
        return f"{WIDTH} principal components of {self.fitted_on}, digest {hashlib.sha256(numbers).hexdigest()[:16]}"


def fit(vectors_ND: NDArray[np.floating], *, encoder: str, fitted_on: str) -> Basis:
    """Principal components of the rows; each has its largest number positive. Raises ValueError for fewer than 65 rows."""
    count, width = vectors_ND.shape
    if count <= WIDTH or width < WIDTH:
        raise ValueError(
            f"{count} vectors of {width} channels from {encoder}; expected more than {WIDTH} of {WIDTH} channels or more: it is "
            "another encoder than the ones that embeddings are made with"
        )
    centred_ND = vectors_ND.astype(np.float64)
    mean_D = centred_ND.mean(axis=0)
    centred_ND -= mean_D
    variances_D, directions_DD = np.linalg.eigh(centred_ND.T @ centred_ND)
    components_CD = directions_DD[:, ::-1].T[:WIDTH].copy()
    largest_C1 = np.abs(components_CD).argmax(axis=1)[:, None]
    components_CD *= np.sign(np.take_along_axis(components_CD, largest_C1, axis=1))
    kept = float(variances_D[::-1][:WIDTH].sum() / variances_D.sum())
    return Basis(mean_D=mean_D, components_CD=components_CD, encoder=encoder, fitted_on=fitted_on, kept=kept)


def basis_bytes(basis: Basis) -> bytes:
    """The file that holds ``basis``."""
    about = {"encoder": basis.encoder, "fitted_on": basis.fitted_on, "kept": basis.kept}
    tensors = {"mean": basis.mean_D, "components": np.ascontiguousarray(basis.components_CD)}
    return safetensors.numpy.save(tensors, {_KEY: json.dumps(about)})


def read_basis(data: bytes, *, where: str) -> Basis:
    """The basis in a file's bytes. ``where``: its name, for errors. Raises ValueError where it is none."""
    try:
        about, tensors = json.loads(metadata_of(data)[_KEY]), safetensors.numpy.load(data)
        return Basis(mean_D=tensors["mean"], components_CD=tensors["components"], **about)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{where} is no basis of embeddings: {error}; remove it, and it is fitted again") from error
