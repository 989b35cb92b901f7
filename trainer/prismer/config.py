"""What decides the shape of every parameter of a Prismer: widths, layers, patch, resolutions, experts, vocabulary.

Source: Prismer, arXiv:2303.02506, table 1 and the appendix on the architecture; names and numbers where the text is silent
follow the released checkpoints.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

#: What an expert's label is to the model. ``seg`` is either class list, COCO's or ADE20K's. ``noise`` is no expert: it is the
#: control that shows what an uninformative one does.
Modality = Literal["depth", "normal", "edge", "seg", "detection", "ocr", "noise"]
SizeName = Literal["tiny", "base", "large"]

#: Channels of class names and words: CLIP text embeddings, reduced.
EMBEDDING: Final = 64
CHANNELS: Final[dict[Modality, int]] = {
    "depth": 1,
    "normal": 3,
    "edge": 1,
    "seg": EMBEDDING,
    "detection": EMBEDDING,
    "ocr": EMBEDDING,
    "noise": 1,
}
#: The experts of the paper.
SIX: Final[tuple[Modality, ...]] = ("depth", "normal", "seg", "edge", "detection", "ocr")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class VisionConfig(_Section):
    """A CLIP vision transformer. patch, resolution: pixels; of a photo that is no multiple of patch, the rest is not seen."""

    width: int = Field(gt=0)
    layers: int = Field(gt=0)
    heads: int = Field(gt=0)
    patch: int = Field(gt=0)
    resolution: int = Field(gt=0)


class ResamplerConfig(_Section):
    """However many tokens the experts give, ``latents`` of them go on."""

    latents: int = Field(64, gt=0)
    layers: int = Field(4, gt=0)
    heads: int = Field(8, gt=0)


class TextConfig(_Section):
    """A RoBERTa, as a decoder.

    words: rows of the vocabulary; pad, bos, eos: ids in it. positions: rows of the position table, of which the first pad + 1
    are never a token's. tied: the output matrix is the word table itself; else it is a parameter of its own.
    pad_before_answer: one pad token stands between question and answer. The released VQA checkpoints were trained with a batch's
    questions padded to the longest, so that nearly every answer followed a pad, and however many of them say the same as one.
    """

    width: int = Field(gt=0)
    layers: int = Field(gt=0)
    heads: int = Field(gt=0)
    words: int = Field(50265, gt=0)
    positions: int = Field(514, gt=0)
    pad: int = Field(1, ge=0)
    bos: int = Field(0, ge=0)
    eos: int = Field(2, ge=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    tied: bool = True
    pad_before_answer: bool = False

    @model_validator(mode="after")
    def _ids_are_words(self) -> TextConfig:
        if len({self.pad, self.bos, self.eos}) < 3 or max(self.pad, self.bos, self.eos) >= self.words:
            raise ValueError(
                f"pad {self.pad}, bos {self.bos}, eos {self.eos}; expected three different ids below {self.words}"
            )
        return self

    @property
    def longest(self) -> int:
        """Tokens that have a position."""
        return self.positions - self.pad - 1


class PrismerConfig(_Section):
    """A Prismer, or without experts a PrismerZ.

    label_resolution: pixels per side that a label map is seen at, whatever it is given at. instances: rows of the table that
    tells a photo's objects apart. stem_width: no convolution of a stem is narrower; an eighth of a small model's width cannot
    tell hundreds of names apart. from_scratch: no backbone will be loaded, so attention begins louder (`layers.initialise`).
    """

    vision: VisionConfig
    text: TextConfig
    resampler: ResamplerConfig = ResamplerConfig()
    experts: tuple[Modality, ...] = SIX
    label_resolution: int = Field(224, gt=0)
    instances: int = Field(128, gt=0)
    stem_width: int = Field(0, ge=0)
    from_scratch: bool = False

    @classmethod
    def of(
        cls,
        size: SizeName,
        *,
        experts: tuple[Modality, ...] = SIX,
        resolution: int | None = None,
        label_resolution: int | None = None,
        words: int | None = None,
    ) -> PrismerConfig:
        """One of the sizes, by default at the resolution it is pre-trained at. Raises ValueError.

        tiny is for tests and the demo: it learns on a CPU in minutes, and ``words`` is its own small vocabulary's.
        """
        if size not in SIZES:
            raise ValueError(f"no Prismer of size {size!r}; expected one of {', '.join(SIZES)}")
        shape = SIZES[size]
        changed: dict[str, Any] = {
            "vision": shape.vision
            if resolution is None
            else shape.vision.model_copy(update={"resolution": resolution}),
            "text": shape.text if words is None else shape.text.model_copy(update={"words": words}),
            "label_resolution": shape.label_resolution if label_resolution is None else label_resolution,
            "experts": tuple(experts),
        }
        return cls.model_validate({**shape.model_dump(), **{key: _plain(value) for key, value in changed.items()}})

    @field_validator("experts")
    @classmethod
    def _no_expert_twice(cls, experts: tuple[Modality, ...]) -> tuple[Modality, ...]:
        if len(set(experts)) < len(experts):
            raise ValueError(f"experts {', '.join(experts)}; expected none twice")
        return experts

    @model_validator(mode="after")
    def _widths_fit(self) -> PrismerConfig:
        for what, width, parts in (
            ("vision.width", self.vision.width, self.vision.heads),
            ("vision.width for the resampler", self.vision.width, self.resampler.heads),
            ("vision.width for the stems", self.vision.width, 8),
            ("text.width", self.text.width, self.text.heads),
        ):
            if width % parts:
                raise ValueError(f"{what} is {width}; expected a multiple of {parts}")
        if min(self.grid, self.label_grid) < 2:
            raise ValueError(
                f"resolution {self.vision.resolution} and label_resolution {self.label_resolution} with patches of "
                f"{self.vision.patch}; expected two patches per side or more"
            )
        return self

    @property
    def grid(self) -> int:
        """Tokens of the photo per side."""
        return self.vision.resolution // self.vision.patch

    @property
    def label_grid(self) -> int:
        """Tokens of a label map per side."""
        return self.label_resolution // self.vision.patch

    @property
    def visual_tokens(self) -> int:
        """Tokens that come out of the encoder: the photo's, then the resampler's."""
        return self.grid**2 + (self.resampler.latents if self.experts else 0)

    def modalities(self) -> dict[Modality, int]:
        """The experts and the channels of their maps, in the order of their tokens."""
        return {name: CHANNELS[name] for name in self.experts}

    def at(self, resolution: int) -> PrismerConfig:
        """The same model for photos of another resolution: only the position table changes."""
        return self.model_validate(
            {**self.model_dump(), "vision": {**self.vision.model_dump(), "resolution": resolution}}
        )


def _plain(value: Any) -> Any:
    return value.model_dump() if isinstance(value, BaseModel) else value


SIZES: Final[dict[SizeName, PrismerConfig]] = {
    "tiny": PrismerConfig(
        vision=VisionConfig(width=96, layers=3, heads=4, patch=16, resolution=112),
        text=TextConfig(width=96, layers=2, heads=4, words=512, positions=66),
        resampler=ResamplerConfig(latents=16, layers=2, heads=4),
        label_resolution=112,
        stem_width=64,
        from_scratch=True,
    ),
    "base": PrismerConfig(
        vision=VisionConfig(width=768, layers=12, heads=12, patch=16, resolution=224),
        text=TextConfig(width=768, layers=12, heads=12),
    ),
    "large": PrismerConfig(
        vision=VisionConfig(width=1024, layers=24, heads=16, patch=14, resolution=224),
        text=TextConfig(width=1024, layers=24, heads=16),
    ),
}
