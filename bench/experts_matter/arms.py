"""What is compared, and everything that decides a run."""

from __future__ import annotations

from dataclasses import dataclass, replace

from trainer.prismer.config import SIX, Modality

SHARES = (25, 50, 100)
TRUTH: dict[Modality, str] = {
    "depth": "truth_depth",
    "normal": "truth_normal",
    "seg": "truth_seg",
    "edge": "truth_edge",
    "detection": "truth_detection",
    "ocr": "truth_ocr",
    "noise": "noise",
}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One thing that is compared: a tiny Prismer with these labels, modality -> expert; without any a PrismerZ.

    It learns for ``times`` the steps of the scale.
    """

    name: str
    title: str
    labels: dict[Modality, str]
    times: int = 1

    @property
    def columns(self) -> dict[str, str]:
        """``labels``, as a dataset takes them."""
        return {str(name): expert for name, expert in self.labels.items()}


def _with(*experts: Modality) -> dict[Modality, str]:
    return {name: TRUTH[name] for name in experts}


#: In the order of the paper's experts, so that none is chosen by what comes out.
ARMS: tuple[Arm, ...] = (
    Arm(name="z", title="PrismerZ: no expert", labels={}),
    Arm(name="one", title="1 expert: depth", labels=_with(*SIX[:1])),
    Arm(name="two", title="2 experts: + normals", labels=_with(*SIX[:2])),
    Arm(name="four", title="4 experts: + segmentation, edges", labels=_with(*SIX[:4])),
    Arm(name="six", title="6 experts: + detection, text", labels=_with(*SIX)),
    Arm(name="noise", title="6 experts and noise", labels=_with(*SIX, "noise")),
    *(
        Arm(
            name=f"depth_{share}",
            title=f"1 expert: depth, {share} % of labels noise",
            labels={"depth": f"corrupted_depth_{share}"},
        )
        for share in SHARES
    ),
)

#: Whether what is not learned is out of reach, or takes longer; with one seed.
TIMES = 3


def longer(name: str) -> str:
    """The name of the arm that learns as the arm ``name`` does, for ``TIMES`` the steps."""
    return f"{name}_longer"


LONGER: tuple[Arm, ...] = tuple(
    replace(arm, name=longer(arm.name), times=TIMES)
    for arm in ARMS
    if arm.name in ("z", "one", "six") or arm.name.startswith("depth_")
)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large the experiment is. The same for all arms.

    train, val      scenes to learn from and to ask about, of ``size`` pixels a side
    label_size      pixels a side that labels are seen at
    questions       about each photo of a batch, beside one caption
    caption_weight  of a caption beside a question about a word; a caption has about ten times the tokens
    """

    train: int = 3000
    val: int = 300
    size: int = 96
    label_size: int = 64
    steps: int = 800
    batch: int = 32
    questions: int = 4
    caption_weight: float = 0.1
    peak: float = 7e-4
    warm_up: int = 50
    seeds: int = 3
