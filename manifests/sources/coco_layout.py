"""The layout of COCO's annotation files, which NoCaps and others share: one object of images, annotations, licenses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from manifests.json_parts import Part, parts
from manifests.record import Rejection, fold
from manifests.sources.caption_text import caption_of

NO_ID = "image without a numeric id or a file name"
NO_CAPTION = "annotation without a caption or an id"
NOT_LISTED = "caption of an image that is not listed"
TWICE = "image listed twice"
ANNOTATION_TWICE = "annotation listed twice"

#: What is kept of an image; dates and the like are most of a file of captions.
_KEPT = ("id", "file_name", "width", "height", "license", "flickr_url", "coco_url", "open_images_id", "domain")


@dataclass(kw_only=True)
class Layout:
    """One file. images: by id, in the file's order, with ``at``, their place in the file. captions: by image id, each with
    the annotation's id and its place in the file. licences: name by id, which is text."""

    where: str
    images: dict[int, dict[str, Any]] = field(default_factory=dict)
    captions: dict[int, list[tuple[int, int, str]]] = field(default_factory=dict)
    licences: dict[str, str] = field(default_factory=dict)
    rejections: list[Rejection] = field(default_factory=list)

    def captions_of(self, image: int) -> tuple[str, ...]:
        """In the order of the annotations' ids."""
        return tuple(caption for _, _, caption in sorted(self.captions.get(image, ())))

    def licence_of(self, image: dict[str, Any]) -> str:
        return self.licences.get(str(image.get("license")), "")


def read_layout(
    where: str,
    *,
    source: str,
    expected: str,
    needed: tuple[str, ...] = ("images", "annotations"),
    captions: bool = True,
) -> Layout:
    """The file at a path or URL, with a rejection for everything in it that cannot be used.

    Without ``captions`` annotations are not looked at, and a file is read no further than its images where these come first.
    Memory: the ids, names, sizes and captions; boxes, polygons and the rest are dropped piece by piece. Raises ValueError
    where the file is missing, is broken, or lacks one of the ``needed`` lists.
    """
    found = Layout(where=where)
    for part in parts(where, needed=needed, expected=expected):
        if part.key == "images" and part.first >= 0:
            _add_images(found, part, source)
        elif part.key == "annotations" and part.first >= 0:
            if captions:
                _add_captions(found, part, source)
            elif found.images:
                break
        elif part.key == "licenses":
            entries = (entry for entry in part.values if isinstance(entry, dict) and isinstance(entry.get("name"), str))
            found.licences.update({str(entry.get("id")): fold(entry["name"]) for entry in entries})
    _reject_strangers(found, source)
    return found


def size_of(value: object) -> int | None:
    """A width or height in pixels; None for what is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 31 else None


def dicts(items: object) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a list with their places; nothing of what is no list."""
    return (
        ((n, item) for n, item in enumerate(items) if isinstance(item, dict)) if isinstance(items, list) else iter(())
    )


def _add_images(found: Layout, part: Part, source: str) -> None:
    for at, image in enumerate(part.values, part.first):
        number = image.get("id") if isinstance(image, dict) else None
        if not is_id(number) or not isinstance(image.get("file_name"), str) or not image["file_name"]:
            found.rejections.append(Rejection(source, f"{found.where}, images[{at}]", NO_ID))
        elif number in found.images:
            found.rejections.append(Rejection(source, f"{found.where}, images[{at}]: id {number}", TWICE))
        else:
            found.images[number] = {"at": at, **{key: image[key] for key in _KEPT if key in image}}


def _add_captions(found: Layout, part: Part, source: str) -> None:
    for at, entry in enumerate(part.values, part.first):
        if not isinstance(entry, dict):
            continue
        text, number, image = entry.get("caption"), entry.get("id"), entry.get("image_id")
        if not isinstance(text, str) or not isinstance(number, int):
            refused = NO_CAPTION
        elif not isinstance(image, int):
            refused = NOT_LISTED
        else:
            caption, refused = caption_of(text)
            if not refused:
                found.captions.setdefault(image, []).append((number, at, caption))
        if refused:
            found.rejections.append(Rejection(source, f"{found.where}, annotations[{at}]", refused))


def _reject_strangers(found: Layout, source: str) -> None:
    """Captions of images that are not there, and those that stand there twice."""
    for image in list(found.captions):
        if image not in found.images:
            for _, at, _ in found.captions.pop(image):
                found.rejections.append(Rejection(source, f"{found.where}, annotations[{at}]", NOT_LISTED))
            continue
        captions = sorted(found.captions[image])
        again = [new for old, new in zip(captions, captions[1:], strict=False) if old[0] == new[0]]
        for number, at, _ in again:
            what = f"{found.where}, annotations[{at}]: id {number}"
            found.rejections.append(Rejection(source, what, ANNOTATION_TWICE))
        if again:
            found.captions[image] = [caption for caption in captions if caption not in again]


def is_id(value: object) -> TypeGuard[int]:
    """Whether it is a number that datasets give to images."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**18
