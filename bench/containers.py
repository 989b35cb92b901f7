"""Pictures inside of tars and Parquet files: how fast their addresses become a manifest's records, and how fast they are read.

    python -m bench.containers --tars 6 --samples 10000

The tars are of img2dataset's form, made here: 10,000 samples of 30 kB each with text, JSON and a Parquet beside them.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.report import Figure, Part, peak_memory, run_alone
from manifests.record import Rejection, from_batch
from manifests.sources import HfParquet, Img2dataset
from pipeline.photos import Limits, read_bytes

PHOTO_BYTES = 30_000
READS = 3000
#: Images of CC12M that could still be had, roughly, and with them a full download.
MANY = 11_000_000


def write_tars(root: Path, tars: int, samples: int) -> None:
    """``tars`` shards as img2dataset writes them; the extended headers are those of times with a fraction."""
    random = np.random.default_rng(0)
    for number in range(tars):
        keys = [f"{number:05d}{index:04d}" for index in range(samples)]
        rows: list[dict[str, Any]] = [
            {"caption": f"a photo of thing {key} on a table", "url": f"http://host.example.com/{key}.jpg", "key": key,
             "status": "success", "error_message": None, "width": 256, "height": 256, "original_width": 640,
             "original_height": 480, "exif": "{}", "sha256": hashlib.sha256(key.encode()).hexdigest()}
            for key in keys
        ]  # fmt: skip
        pq.write_table(pa.Table.from_pylist(rows), root / f"{number:05d}.parquet")
        with tarfile.open(root / f"{number:05d}.tar", "w") as tar:
            for row in rows:
                about = {
                    "jpg": random.bytes(PHOTO_BYTES),
                    "json": json.dumps(row, indent=4).encode(),
                    "txt": row["caption"].encode(),
                }
                for ending, data in about.items():
                    info = tarfile.TarInfo(f"{row['key']}.{ending}")
                    info.size, info.mtime = len(data), 1795217532.5
                    tar.addfile(info, io.BytesIO(data))


def write_parquet(path: Path, rows: int, *, pages: bool) -> None:
    """Photos in cells as `datasets` writes them: with pages since version 4, row groups of 100 MB in pages of 1 MB and not
    compressed; before, row groups of 100 photos."""
    random = np.random.default_rng(1)
    schema = pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("caption", pa.string())]
    )
    options = {"compression": "none", "use_dictionary": False, "write_batch_size": 8} if pages else {}
    group = 100_000_000 // PHOTO_BYTES if pages else 100
    with pq.ParquetWriter(path, schema, **options) as writer:
        for first in range(0, rows, group):
            some = range(first, min(first + group, rows))
            cells = [{"bytes": random.bytes(PHOTO_BYTES), "path": f"{n}.jpg"} for n in some]
            table = pa.table({"image": cells, "caption": [f"photo {n}" for n in some]}, schema=schema)
            writer.write_table(table, row_group_size=group)


def forget(root: Path) -> None:
    """Takes the files of a folder out of the page cache."""
    for path in root.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def scanned(source: Img2dataset | HfParquet) -> tuple[int, float, float]:
    """Records, seconds on the clock, seconds of CPU."""
    clock, cpu, count = time.perf_counter(), time.process_time(), 0
    for batch in source.batches():
        assert not isinstance(batch, Rejection), batch
        count += batch.num_rows
    return count, time.perf_counter() - clock, time.process_time() - cpu


def read_rate(uris: Sequence[str]) -> float:
    """Photos a second, undecoded, one after the other."""
    start = time.perf_counter()
    assert all(len(read_bytes(uri, Limits())) == PHOTO_BYTES for uri in uris)
    return len(uris) / (time.perf_counter() - start)


def memory_now() -> float:
    """The most memory that this process has had, in MB."""
    return peak_memory() / 1e6


def in_a_process(uris: Sequence[str]) -> float:
    """The same by a process of its own, which has kept nothing."""
    code = "import sys, bench.containers as b; print(b.read_rate(sys.stdin.read().split()))"
    run = subprocess.run(
        [sys.executable, "-c", code], input="\n".join(uris), capture_output=True, text=True, check=True
    )
    return float(run.stdout)


def uris_of(source: Img2dataset | HfParquet) -> list[str]:
    return [
        record.uri for batch in source.batches() if isinstance(batch, pa.RecordBatch) for record in from_batch(batch)
    ]


def measure(arguments: argparse.Namespace) -> Part:
    """All of it, in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        tars, old, new, files = (Path(folder, name) for name in ("tars", "old", "new", "files"))
        for place in (tars, old, new, files):
            place.mkdir()
        write_tars(tars, arguments.tars, arguments.samples)
        rows = min(arguments.samples, 10_000)
        write_parquet(old / "train-0.parquet", rows, pages=False)
        write_parquet(new / "train-0.parquet", rows, pages=True)
        source = Img2dataset(path=str(tars))
        forget(tars)
        count, cold, _ = scanned(source)
        _, warm, cpu = min((scanned(source) for _ in range(3)), key=lambda found: found[1])
        alone = "import sys, bench.containers as b; b.scanned(b.Img2dataset(path=sys.argv[1])); print(b.memory_now())"
        run = subprocess.run([sys.executable, "-c", alone, str(tars)], capture_output=True, text=True, check=True)
        memory = float(run.stdout)
        cell_count, _, cell_cpu = scanned(HfParquet(path=str(old)))
        random = np.random.default_rng(2)
        members = uris_of(source)
        some = [members[n] for n in random.permutation(len(members))[:READS]]
        loose = []
        for number, uri in enumerate(some):
            (files / f"{number}.jpg").write_bytes(read_bytes(uri, Limits()))
            loose.append((files / f"{number}.jpg").as_uri())
        rates = {"files": read_rate(loose), "tar": read_rate(some)}
        for name, place in (("old", old), ("new", new)):
            cells = uris_of(HfParquet(path=str(place)))
            rates[f"{name}, in order"] = in_a_process(cells[:READS])
            rates[f"{name}, shuffled"] = in_a_process([cells[n] for n in random.permutation(len(cells))[: READS // 4]])
    figures = [
        Figure(name="samples of img2dataset's tars a second, files in the page cache", value=count / warm, unit="1/s"),
        Figure(name="the same, files not in the page cache", value=count / cold, unit="1/s"),
        Figure(name="CPU for a sample", value=cpu / count * 1e6, unit="us"),
        Figure(name=f"CPU for {MANY:,} samples, on one core", value=cpu / count * MANY / 60, unit="min"),
        Figure(name="largest memory of a process that does only this", value=memory, unit="MB"),
        Figure(name="CPU for a row of Hugging Face Parquet", value=cell_cpu / cell_count * 1e6, unit="us"),
        Figure(name="photos a second read from loose files", value=rates["files"], unit="1/s"),
        Figure(name="from tars, shuffled", value=rates["tar"], unit="1/s"),
        Figure(
            name="from compressed Parquet in row groups of 100 photos, in order",
            value=rates["old, in order"],
            unit="1/s",
        ),
        Figure(name="the same, shuffled", value=rates["old, shuffled"], unit="1/s"),
        Figure(name="from Parquet that is not compressed, in order", value=rates["new, in order"], unit="1/s"),
        Figure(name="the same, shuffled", value=rates["new, shuffled"], unit="1/s"),
    ]
    how = (
        f"{arguments.tars} tars of {arguments.samples} samples (a photo of {PHOTO_BYTES // 1000} kB, JSON, text), a Parquet beside each; "
        "photos are read undecoded by one thread."
    )
    return Part(title="Pictures in tars and Parquet", how=how, figures=figures)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tars", type=int, default=6)
    parser.add_argument("--samples", type=int, default=10_000, help="of a tar")


if __name__ == "__main__":
    run_alone(measure, add_arguments, __doc__ or "")
