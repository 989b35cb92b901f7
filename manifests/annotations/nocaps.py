"""NoCaps' pictures as an evaluation needs them: their numbers on the server, and how far they are from COCO's objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from manifests.annotations.pictures import id_name, names_of
from manifests.record import ImageRecord
from manifests.sources.coco_layout import read_layout
from manifests.sources.nocaps import nocaps_id, open_images_key

_EXPECTED = "nocaps_val_4500_captions.json or nocaps_val_image_info.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class NocapsPicture:
    """``number``: what results files call ``image_id``. ``domain``: in-domain, near-domain, out-domain, "" where the file does
    not say. ``captions``: of people, ten in the validation set, () where they are kept secret."""

    number: int
    open_images_id: str
    domain: str
    captions: tuple[str, ...]


class NocapsPictures:
    """The pictures of one file; ``of`` finds that of a record."""

    def __init__(self, by_name: Mapping[str, NocapsPicture]) -> None:
        self._by_name = dict(by_name)

    def __len__(self) -> int:
        return len(set(self._by_name.values()))

    def of(self, record: ImageRecord) -> NocapsPicture | None:
        """By the record's keys, or its id."""
        found = (self._by_name.get(name) for name in names_of(record))
        return next((picture for picture in found if picture is not None), None)


def read_nocaps(where: str) -> NocapsPictures:
    """The file at a path or URL. Raises ValueError where it is missing, broken or another one."""
    layout = read_layout(where, source="nocaps", expected=_EXPECTED, needed=("images",))
    found: dict[str, NocapsPicture] = {}
    for number, image in layout.images.items():
        key = open_images_key(image)
        domain = image.get("domain")
        picture = NocapsPicture(
            number=number,
            open_images_id=key.partition(":")[2],
            domain=domain if isinstance(domain, str) else "",
            captions=layout.captions_of(number),
        )
        found[key] = found[id_name(nocaps_id(image))] = picture
    return NocapsPictures(found)
