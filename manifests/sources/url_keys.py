"""What the address of a picture says about which picture it is."""

from __future__ import annotations

import re

from manifests.record import flickr_key, url_key
from manifests.sources.coco import coco_key
from manifests.sources.visual_genome import vg_key

_COCO = re.compile(r"https?://(?:[\w-]+\.)*(?:ms)?coco(?:dataset)?\.org/(?:\w+/)*(?:COCO_[a-z]+\d{4}_)?(\d{12})\.jpg")
_VG = re.compile(r"https?://(?:[\w-]+\.)*stanford\.edu/(?:[\w~-]+/)*VG_100K(?:_2)?/(\d{1,18})\.jpg")


def keys_of_url(url: str) -> tuple[str, ...]:
    """The `url_key`, and the picture's number in COCO, in Visual Genome or on Flickr where it is from there."""
    known: str | None = None
    if "flickr" in url:
        known = flickr_key(url)
    elif "coco" in url:
        coco = _COCO.match(url)
        known = coco_key(int(coco[1])) if coco else None
    elif "VG_100K" in url:
        vg = _VG.match(url)
        known = vg_key(int(vg[1])) if vg else None
    return (url_key(url), known) if known else (url_key(url),)
