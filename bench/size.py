"""What a store takes on disk: bytes and files per image, beside one file for each label and image.

python -m bench.size STORE
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.report import Figure, Part, Table, measured, show
from pipeline.status import status
from pipeline.store import LabelStore


def measure(arguments: argparse.Namespace) -> Part:
    """Of the complete local store ``arguments.store``. The loose layout has a file for each label that is not failed."""
    store = LabelStore.open(arguments.store)
    root = Path(arguments.store)
    found = status(store, failures=True)
    images = found.plan.images
    rows = [["expert", "kind", "bytes per image", "files", "loose files"]]
    loose_files = 0
    for column in found.columns:
        files = [path for path in (root / store.folder(column.column)).iterdir() if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        assert column.rows is not None, "status was asked for the receipts"
        loose = column.rows.ok + column.rows.empty
        loose_files += loose
        rows.append([column.expert, column.kind, f"{size / images:,.0f}", str(len(files)), str(loose)])
    everything = [path for path in root.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in everything)
    rows.append(["store", "", f"{size / images:,.0f}", str(len(everything)), str(loose_files)])
    how = (
        f"The store of the throughput part: {images} images in {found.shards} shards of {found.plan.shard_size}, "
        f"{len(found.columns)} columns, with plan, manifest, cards and receipts. Files per image fall with the shard size: "
        "a cell has two files, or three where its labels are dense, however many images it holds."
    )
    per_cell = (len(everything) - 2 - len(found.columns)) / max(1, found.cells)
    return Part(
        title="Size",
        how=how,
        figures=[
            Figure(name="bytes per image, all experts", value=size / images, unit="B"),
            Figure(name="files per image, all experts", value=len(everything) / images, unit="files"),
            Figure(
                name="the same if shards were of 512 (computed)",
                value=per_cell * len(found.columns) / 512,
                unit="files",
            ),
            Figure(name="files per image, one file for each label", value=loose_files / images, unit="files"),
        ],
        tables=[Table(title="Per expert:", rows=rows)],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("store", help="a local store whose cells are all committed")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    show([measured(measure, chosen)], as_json=chosen.json)
