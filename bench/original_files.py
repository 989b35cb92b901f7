"""Made-up lists in the original forms of COCO (Karpathy's split), Visual Genome, CC3M, SBU and CC12M, at any size.

    python -m bench.original_files FOLDER --scale 0.01

Scale 1 is what a Prismer is trained on: about 11.4 million pictures with 12.7 million captions. No picture is written, only the
lists, the files of the guards, and sources.yaml to build a manifest from. What is like the real lists: fields and their
order, lengths of captions and addresses, words and hosts by Zipf's law, white space to be folded, half of Visual Genome's pictures
being COCO's, web addresses that come twice in a list and in two lists, photos of Flickr among them. The same seed, the same bytes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

#: Rows at scale 1. Of CC3M and SBU those of the published filtered lists, of CC12M what makes the sum Prismer's.
COCO, COCO_VAL, COCO_TEST, VG, CC3M, SBU, CC12M = 123_287, 5_000, 5_000, 108_077, 2_600_000, 850_000, 8_000_000
TEST2015, NOCAPS = 81_434, 4_500
REGIONS = 50
#: Of CC12M's addresses so many come a second time, and so many are CC3M's; so many of SBU's photos are COCO's.
AGAIN, SHARED, FLICKR = 0.004, 0.006, 0.002
_BLOCK = 100_000


@dataclass(frozen=True, slots=True)
class Words:
    """Captions of any number, of word groups that were drawn once."""

    groups: list[str]
    rng: np.random.Generator

    @classmethod
    def make(cls, seed: int) -> Words:
        rng = np.random.default_rng(seed)
        letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
        lengths = rng.integers(2, 10, 30_000)
        words = ["".join(rng.choice(letters, length)) for length in lengths]
        ranks = np.minimum(rng.zipf(1.25, 1_200_000) - 1, len(words) - 1)
        sizes = rng.integers(3, 8, 200_000)
        ends = np.cumsum(sizes)
        groups = [
            " ".join(words[rank] for rank in ranks[end - size : end]) for size, end in zip(sizes, ends, strict=True)
        ]
        return cls(groups, rng)

    def captions(self, count: int) -> list[str]:
        """Six to fourteen words each."""
        first, second = self.rng.integers(0, len(self.groups), (2, count)).tolist()
        groups = self.groups
        return [f"{groups[one]} {groups[other]}" for one, other in zip(first, second, strict=True)]

    def phrases(self, count: int) -> list[str]:
        """Three to seven words each."""
        return [self.groups[number] for number in self.rng.integers(0, len(self.groups), count).tolist()]


def write_all(folder: Path, *, scale: float, seed: int = 0) -> None:
    """All lists, guards and sources.yaml in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("coco", "visual_genome"):
        (folder / name).mkdir(exist_ok=True)
    words = Words.make(seed)
    rng = np.random.default_rng([seed, 1])
    numbers = rng.permutation(600_000)[: _scaled(COCO, scale)] + 1
    flickr = rng.integers(10**9, 10**10, len(numbers))
    _write_karpathy(folder / "dataset_coco.json", numbers, words, scale)
    _write_visual_genome(folder, numbers, flickr, words, rng, scale)
    _write_guards(folder, rng, scale)
    first = _Web(rng, 0)
    with (folder / "cc3m.tsv").open("w", encoding="utf-8") as stream:
        for urls in first.blocks(_scaled(CC3M, scale)):
            stream.writelines(f"{c}\t{u}\n" for c, u in zip(words.captions(len(urls)), urls, strict=True))
    with (folder / "sbu_urls.txt").open("w") as urls_file, (folder / "sbu_captions.txt").open("w") as captions_file:
        for count in _blocks(_scaled(SBU, scale)):
            ids = rng.integers(10**9, 10**10, count)
            known = rng.random(count) < FLICKR
            ids[known] = rng.choice(flickr, int(known.sum()))
            secrets = rng.integers(16**9, 16**10, count).tolist()
            urls_file.writelines(
                f"http://static.flickr.com/{2000 + number % 999}/{number}_{secret:010x}.jpg\n"
                for number, secret in zip(ids.tolist(), secrets, strict=True)
            )
            captions_file.writelines(f"{caption} .\n" for caption in words.captions(count))
    second = _Web(rng, 1)
    with (folder / "cc12m.tsv").open("w", encoding="utf-8") as stream:
        for urls in second.blocks(_scaled(CC12M, scale)):
            again = rng.random(len(urls))
            for place in np.flatnonzero(again < AGAIN + SHARED).tolist():
                urls[place] = urls[place // 2] if again[place] < AGAIN else first.any_of(rng)
            stream.writelines(f"{u}\t{c}\n" for c, u in zip(words.captions(len(urls)), urls, strict=True))
    (folder / "sources.yaml").write_text(_SOURCES.replace("FOLDER", str(folder)), "utf-8")


def _scaled(count: int, scale: float) -> int:
    return max(10, round(count * scale))


def _blocks(count: int) -> Iterator[int]:
    while count:
        yield min(count, _BLOCK)
        count -= min(count, _BLOCK)


class _Web:
    """Addresses on the web; the hosts by Zipf's law."""

    def __init__(self, rng: np.random.Generator, series: int) -> None:
        self._rng = rng
        self._series = series
        self._kept: list[str] = []

    def blocks(self, count: int) -> Iterator[list[str]]:
        start = 0
        for size in _blocks(count):
            hosts = np.minimum(self._rng.zipf(1.3, size), 200_000).tolist()
            tokens = self._rng.integers(0, 2**63, size).tolist()
            urls = [
                f"https://images{host}.example.com/media/{self._series}/{token:016x}/{start + place}.jpg"
                for place, (host, token) in enumerate(zip(hosts, tokens, strict=True))
            ]
            self._kept += urls[::50]
            start += size
            yield urls

    def any_of(self, rng: np.random.Generator) -> str:
        return self._kept[int(rng.integers(len(self._kept)))]


def _write_karpathy(path: Path, numbers: np.ndarray, words: Words, scale: float) -> None:
    val, test = _scaled(COCO_VAL, scale), _scaled(COCO_TEST, scale)
    from_train = round(len(numbers) * 0.6715)
    with path.open("w", encoding="utf-8") as stream:
        stream.write('{"images": [')
        for place, number in enumerate(numbers.tolist()):
            after = place - from_train
            split = "train" if after < 0 else "val" if after < val else "test" if after < val + test else "restval"
            year = "train2014" if after < 0 else "val2014"
            image = {
                "filepath": year,
                "sentids": list(range(5 * place, 5 * place + 5)),
                "filename": f"COCO_{year}_{number:012d}.jpg",
                "imgid": place,
                "split": split,
                "sentences": [
                    {"tokens": raw.split(), "raw": f"{raw.capitalize()}. ", "imgid": place, "sentid": 5 * place + n}
                    for n, raw in enumerate(words.captions(5))
                ],
                "cocoid": number,
            }
            stream.write((", " if place else "") + json.dumps(image))
        stream.write('], "dataset": "coco"}')


def _write_visual_genome(
    folder: Path, coco: np.ndarray, flickr: np.ndarray, words: Words, rng: np.random.Generator, scale: float
) -> None:
    count = _scaled(VG, scale)
    shared = rng.permutation(len(coco))[: round(count * 0.475)].tolist()
    with (
        (folder / "image_data.json").open("w") as images,
        (folder / "region_descriptions.json").open("w") as regions,
    ):
        for place in range(count):
            number = place + 1
            of_coco = shared[place] if place < len(shared) else None
            image = {
                "width": 800,
                "url": f"https://cs.stanford.edu/people/rak248/VG_100K{'_2' if number % 2 else ''}/{number}.jpg",
                "height": 600,
                "image_id": number,
                "coco_id": None if of_coco is None else int(coco[of_coco]),
                "flickr_id": None if of_coco is None else int(flickr[of_coco]),
            }
            images.write(("[" if not place else ", ") + json.dumps(image))
            sides = rng.integers(10, 400, (REGIONS, 4)).tolist()
            entry = {
                "regions": [
                    {
                        "region_id": number * 100 + n,
                        "width": w,
                        "height": h,
                        "image_id": number,
                        "phrase": p,
                        "y": y,
                        "x": x,
                    }
                    for n, ((w, h, y, x), p) in enumerate(zip(sides, words.phrases(REGIONS), strict=True))
                ],
                "id": number,
            }
            regions.write(("[" if not place else ", ") + json.dumps(entry))
        images.write("]")
        regions.write("]")


def _write_guards(folder: Path, rng: np.random.Generator, scale: float) -> None:
    asked = (rng.permutation(300_000)[: _scaled(TEST2015, scale)] + 700_000).tolist()
    questions = [{"image_id": number, "question": "What is it?", "question_id": number * 1000} for number in asked]
    (folder / "vqa_test2015_questions.json").write_text(json.dumps({"questions": questions}))
    images = [
        {
            "id": place,
            "open_images_id": f"{token:016x}",
            "coco_url": f"https://s3.amazonaws.com/nocaps/val/{token:016x}.jpg",
            "file_name": f"{token:016x}.jpg",
            "width": 1024,
            "height": 768,
        }
        for place, token in enumerate(rng.integers(0, 2**63, _scaled(NOCAPS, scale)).tolist())
    ]
    (folder / "nocaps_val.json").write_text(json.dumps({"images": images, "annotations": []}))


_SOURCES = """root: FOLDER
seed: 1
images:
  - {source: coco, images: "${root}/coco", karpathy: "${root}/dataset_coco.json", splits: [train, restval]}
  - {source: visual_genome, images: "${root}/visual_genome", image_data: "${root}/image_data.json",
     regions: "${root}/region_descriptions.json"}
  - {source: cc3m, path: "${root}/cc3m.tsv", fetch: true}
  - {source: sbu, urls: "${root}/sbu_urls.txt", captions: "${root}/sbu_captions.txt", fetch: true}
  - {source: cc12m, path: "${root}/cc12m.tsv", fetch: true}
guard:
  - {guard: karpathy, file: "${root}/dataset_coco.json"}
  - {guard: nocaps, file: "${root}/nocaps_val.json"}
  - {guard: vqa, file: "${root}/vqa_test2015_questions.json"}
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write_all(arguments.folder, scale=arguments.scale, seed=arguments.seed)
