"""Which of easyocr's recognisers reads which languages, and where its weights come from: the facts of easyocr 1.7.2, without it.

A card names its weights before easyocr, and with it torch, is imported anywhere. A test compares this table with the installed
package. Digests are those that several independent users of easyocr's release files state alike; where only one does, "".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from expert_zoo.weights.checkpoint import CheckpointFile

#: The version whose code stands between the weights and the words; another one may read differently.
EASYOCR = "1.7.2"
RELEASES = "https://github.com/JaidedAI/EasyOCR/releases/download"

#: CRAFT, the detector of all of them.
DETECTOR: Final = CheckpointFile(
    path="craft_mlt_25k.pth",
    url=f"{RELEASES}/pre-v1.1.6/craft_mlt_25k.zip",
    member="craft_mlt_25k.pth",
    sha256="4a5efbfb48b4081100544e75e1e2b57f8de3d84f213004b14b85fd4b3748db17",
    bytes=83152330,
)
DETECTOR_PARAMETERS = 20_770_466


@dataclass(frozen=True, slots=True, kw_only=True)
class Recogniser:
    """One CRNN of easyocr.

    name        as in easyocr's configuration
    generation  1: ResNet and LSTMs of 512 channels; 2: VGG and LSTMs of 256
    classes     characters and the CTC blank
    archive     "<release>/<zip>" under RELEASES; it holds ``file``
    languages   easyocr's codes of what it reads, English beside them; those that it names but has no characters for are left out
    """

    name: str
    generation: int
    classes: int
    archive: str
    file: str
    languages: str
    sha256: str = ""
    bytes: int = 0

    @property
    def weights(self) -> CheckpointFile:
        return CheckpointFile(
            path=self.file, url=f"{RELEASES}/{self.archive}", member=self.file, sha256=self.sha256, bytes=self.bytes
        )

    @property
    def parameters(self) -> int:
        body, width = (53_718_496, 512) if self.generation == 1 else (3_756_416, 256)
        return body + (width + 1) * self.classes

    @property
    def right_to_left(self) -> bool:
        return self.name == "arabic_g1"


RECOGNISERS: Final = (
    Recogniser(name="english_g2", generation=2, classes=97, archive="v1.3/english_g2.zip", file="english_g2.pth", languages="en",
               sha256="e2272681d9d67a04e2dff396b6e95077bc19001f8f6d3593c307b9852e1c29e8", bytes=15143997),
    Recogniser(name="latin_g2", generation=2, classes=352, archive="v1.3/latin_g2.zip", file="latin_g2.pth",
               languages="af az bs cs cy da de es et fr ga hr hu id is it ku la lt lv mi ms mt nl no oc pi pl pt ro rs_latin sk sl "
               "sq sv sw tl tr uz vi",
               sha256="aaa95be1c4a9cb3496879bed7c520886ce1164f89e026f0c54488394e74e8c55", bytes=15406141),
    Recogniser(name="thai_g1", generation=1, classes=177, archive="pre-v1.1.6/thai.zip", file="thai.pth", languages="th",
               sha256="3ebbb9321b9c7c694e169cd23cc37f3c0bd2a160f5b539602bbef80e663e0a17"),
    Recogniser(name="zh_tra_g1", generation=1, classes=5381, archive="pre-v1.1.6/chinese.zip", file="chinese.pth", languages="ch_tra"),
    Recogniser(name="zh_sim_g2", generation=2, classes=6719, archive="v1.3/zh_sim_g2.zip", file="zh_sim_g2.pth", languages="ch_sim",
               sha256="cb678fdef09d651e7763ca551ad790dc89f0b2e3d2a640484330e338fb574c7a", bytes=21951421),
    Recogniser(name="japanese_g2", generation=2, classes=2215, archive="v1.3/japanese_g2.zip", file="japanese_g2.pth", languages="ja"),
    Recogniser(name="korean_g2", generation=2, classes=1009, archive="v1.3/korean_g2.zip", file="korean_g2.pth", languages="ko"),
    Recogniser(name="tamil_g1", generation=1, classes=127, archive="v1.1.7/tamil.zip", file="tamil.pth", languages="ta"),
    Recogniser(name="telugu_g2", generation=2, classes=166, archive="v1.2/telugu.zip", file="telugu.pth", languages="te"),
    Recogniser(name="kannada_g2", generation=2, classes=168, archive="v1.2/kannada.zip", file="kannada.pth", languages="kn"),
    Recogniser(name="bengali_g1", generation=1, classes=170, archive="v1.1.8/bengali.zip", file="bengali.pth", languages="bn as"),
    Recogniser(name="arabic_g1", generation=1, classes=185, archive="pre-v1.1.6/arabic.zip", file="arabic.pth", languages="ar fa ug ur",
               sha256="2a9afd42c374deb98aed0b53c9b77d75e1d00d4e0501f3b0276c54190c89b1a8"),
    Recogniser(name="devanagari_g1", generation=1, classes=188, archive="pre-v1.1.6/devanagari.zip", file="devanagari.pth",
               languages="hi mr ne bh mai ang bho mah sck new gom"),
    Recogniser(name="cyrillic_g2", generation=2, classes=208, archive="v1.6.1/cyrillic_g2.zip", file="cyrillic_g2.pth",
               languages="ru rs_cyrillic be bg uk mn abq ady kbd ava dar inh che lbe lez tab tjk"),
)  # fmt: skip


def recogniser_for(languages: Sequence[str]) -> Recogniser:
    """The smallest recogniser that reads all of ``languages``. Raises ValueError where no single one does."""
    known = {language for recogniser in RECOGNISERS for language in recogniser.languages.split()}
    if unknown := sorted(set(languages) - known):
        raise ValueError(
            f"ocr_easyocr: unknown language {unknown[0]!r} in languages; easyocr has {' '.join(sorted(known))}"
        )
    for recogniser in RECOGNISERS:
        if set(languages) <= {*recogniser.languages.split(), "en"}:
            return recogniser
    raise ValueError(
        f"ocr_easyocr: no recogniser reads all of languages {' '.join(languages)}; expected one script, and English beside it"
    )
