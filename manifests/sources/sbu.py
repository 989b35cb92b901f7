"""Sbu: the SBU Captioned Photo Dataset, one million photos from Flickr, in both forms it is published in."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Literal, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from manifests.json_parts import parts
from manifests.record import BATCH_ROWS, Rejection
from manifests.sources.lines import lines, naming, string_array
from manifests.sources.web import Pairs, WebImages, web_batches

_EXPECTED = "SBU's sbu-captions-all.json, one object of the lists image_urls and captions"


class Sbu(BaseModel):
    """Pairs joined by their number, either of two text files or of the lists in one JSON file:

    urls, captions   SBU_captioned_photo_dataset_urls.txt and SBU_captioned_photo_dataset_captions.txt, an item a line
    json_file        sbu-captions-all.json: one object of parallel lists, image_urls and captions

    fetch: photos are downloaded when they are labelled; without it every pair is a rejection. split, license: of all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Literal["sbu"] = "sbu"
    urls: str | None = Field(None, min_length=1)
    captions: str | None = Field(None, min_length=1)
    json_file: str | None = Field(None, min_length=1)
    fetch: bool = False
    name: str = Field(default="sbu", min_length=1)
    split: str = ""
    license: str = ""

    @model_validator(mode="after")
    def _is_one_form(self) -> Self:
        if (self.urls is None) != (self.captions is None) or (self.urls is None) == (self.json_file is None):
            raise ValueError("expected both `urls` and `captions` (the two text files), or `json_file` alone")
        return self

    def batches(self) -> Iterator[pa.RecordBatch | Rejection]:
        """One record per pair in the order of the files; rejections: captions and URLs that are none.

        Raises ValueError where a file is missing or is another one, where URLs stand in place of captions, and where there
        are more of the one than of the other: then lines are missing, and no pair can be trusted.
        """
        about = WebImages(
            name=self.name,
            prefix=self.source,
            fetch=self.fetch,
            order="a file of URLs for `urls` and one of captions for `captions`",
            where=self.json_file or f"{self.urls}, {self.captions}",
            split=self.split,
            license=self.license,
        )
        return web_batches(self._of_json(self.json_file) if self.json_file else self._of_texts(), about)

    def _of_texts(self) -> Iterator[Pairs]:
        assert self.urls and self.captions
        where, read = f"{self.urls}, {self.captions}, line ", 0
        for urls, captions in zip_longest(_even(self.urls), _even(self.captions)):
            if urls is None or captions is None or len(urls) != len(captions):
                counts = {file: sum(len(found.text) for found in lines(file)) for file in (self.urls, self.captions)}
                said = " and ".join(f"{file} has {count} lines" for file, count in counts.items())
                raise ValueError(f"{said}; expected as many captions as URLs, since line numbers join them")
            yield Pairs(urls, captions, naming(where, range(read + 1, read + 1 + len(urls))))
            read += len(urls)

    def _of_json(self, where: str) -> Iterator[Pairs]:
        lists: dict[str, list[pa.StringArray]] = {"image_urls": [], "captions": []}
        for part in parts(where, needed=("image_urls", "captions"), expected=_EXPECTED):
            if part.key in lists and part.values:
                lists[part.key].append(string_array(part.values))
        urls, captions = (pa.chunked_array(lists[key], pa.string()) for key in ("image_urls", "captions"))
        if len(urls) != len(captions):
            raise ValueError(
                f"{where}: {len(urls)} image_urls and {len(captions)} captions; expected lists of one length, since "
                "positions join them"
            )
        for start in range(0, len(urls), BATCH_ROWS):
            some = [column.slice(start, BATCH_ROWS).combine_chunks() for column in (urls, captions)]
            yield Pairs(some[0], some[1], naming(f"{where}, image_urls[", range(start, len(urls)), "]"))


def _even(where: str) -> Iterator[pa.StringArray]:
    """The lines of a file, BATCH_ROWS at a time however long they are, so that two files go side by side."""
    waiting: list[pa.StringArray] = []
    count = 0
    for found in lines(where):
        waiting.append(found.text)
        count += len(found.text)
        while count >= BATCH_ROWS:
            whole = pa.concat_arrays(waiting)
            yield whole.slice(0, BATCH_ROWS)
            waiting, count = [whole.slice(BATCH_ROWS)], count - BATCH_ROWS
    if count:
        yield pa.concat_arrays(waiting)
