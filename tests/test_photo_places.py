"""Photos that are part of a file: byte ranges of tars and cells of Parquet files, here and behind fsspec URLs."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests.location import bytes_uri, cell_uri, encoded_uri
from pipeline import parquet_cells
from pipeline.parquet_cells import ParquetCells
from pipeline.photos import Limits, PhotoError, read_bytes, read_photo
from tests.img2dataset_output import add
from tests.photo_files import encode, picture
from tests.test_photos import record_of

LIMITS = Limits()
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture
def places(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The same file of a difficult name at a local path and behind fsspec, as URIs."""
    name = "a#bytes=0-1:%41 é.bin"
    (tmp_path / name).write_bytes(bytes(range(256)) * 40)
    files = fsspec.filesystem("memory")
    files.pipe_file(f"/places/{name}", bytes(range(256)) * 40)
    yield {"local": (tmp_path / name).as_uri(), "memory": encoded_uri(f"memory://places/{name}")}
    files.rm("/places", recursive=True)


@pytest.mark.parametrize("place", ["local", "memory"])
def test_a_byte_range_is_these_bytes_and_no_others(places: dict[str, str], place: str) -> None:
    uri = places[place]
    assert read_bytes(uri, LIMITS) == bytes(range(256)) * 40
    assert read_bytes(bytes_uri(uri, 250, 260), LIMITS) == bytes([*range(250, 256), *range(4)])
    assert read_bytes(bytes_uri(uri, 0, 10240), LIMITS) == bytes(range(256)) * 40
    assert read_bytes(bytes_uri(uri, 7, 7), LIMITS) == b""
    for start, end in ((10239, 10241), (20000, 20001)):
        with pytest.raises(PhotoError, match="^missing: bytes "):
            read_bytes(bytes_uri(uri, start, end), LIMITS)
    with pytest.raises(PhotoError, match="^too many bytes: 101, "):
        read_bytes(bytes_uri(uri, 0, 101), Limits(max_bytes=100))
    assert len(read_bytes(bytes_uri(uri, 100, 200), Limits(max_bytes=100))) == 100
    with pytest.raises(PhotoError, match="^unreadable: ValueError: .*expected #bytes=START-END"):
        read_bytes(uri + "#bytes=9-3", LIMITS)


def test_the_limit_is_compared_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, places: dict[str, str]
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(os, "pread", lambda *a: asked.append(a))
    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "cat_file", lambda *a, **k: asked.append(a))
    for uri in places.values():
        with pytest.raises(PhotoError, match="^too many bytes: "):
            read_bytes(bytes_uri(uri, 0, 10**15), LIMITS)
    assert asked == []


def tar_of(path: Path, *members: tuple[str, bytes], kind: int = tarfile.PAX_FORMAT) -> list[tuple[int, int]]:
    with tarfile.open(path, "w", format=kind) as tar:
        for name, data in members:
            add(tar, name, data)
    with tarfile.open(path) as tar:
        return [(member.offset_data, member.offset_data + member.size) for member in tar]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_photo_inside_of_a_tar(tmp_path: Path, kind: int) -> None:
    data = encode(picture(), "PNG")
    places = tar_of(tmp_path / "0.tar", ("a.txt", b"a caption"), ("a.png", data), ("b.png", b""), kind=kind)
    fsspec.filesystem("memory").pipe_file("/tars/0.tar", (tmp_path / "0.tar").read_bytes())
    for uri in ((tmp_path / "0.tar").as_uri(), "memory://tars/0.tar"):
        photo = read_photo(record_of(bytes_uri(uri, *places[1])), LIMITS)
        assert photo.data == data and photo.format == "png"
        np.testing.assert_array_equal(photo.pixels_HW3, picture())
        with pytest.raises(PhotoError, match="^not an image: "):
            read_photo(record_of(bytes_uri(uri, *places[0])), LIMITS)
        with pytest.raises(PhotoError, match="^empty file: "):
            read_photo(record_of(bytes_uri(uri, *places[2])), LIMITS)
    with pytest.raises(PhotoError, match="^missing: "):
        read_photo(record_of(bytes_uri((tmp_path / "1.tar").as_uri(), 0, 10)), LIMITS)


def test_a_tar_that_was_written_anew_is_noticed(tmp_path: Path) -> None:
    """Its photos would go by the captions of those that were at the same places before."""
    path = tmp_path / "0.tar"
    photos = [bytes([seed]) * (3000 + seed) for seed in range(3)]
    places = tar_of(path, *((f"{n}.png", data) for n, data in enumerate(photos)))
    fsspec.filesystem("memory").pipe_file("/anew/0.tar", b"")
    for members in (photos[1:], [photos[0][:-600], *photos[1:]], [photos[0], photos[2]], [bytes(900_000)]):
        tar_of(path, *((f"{n}.png", data) for n, data in enumerate(members)))
        fsspec.filesystem("memory").pipe_file("/anew/0.tar", path.read_bytes())
        for uri in (path.as_uri(), "memory://anew/0.tar"):
            with pytest.raises(PhotoError, match="^missing: no member of .* was the tar written anew"):
                read_bytes(bytes_uri(uri, *places[1]), LIMITS)
    places = tar_of(path, *((f"{n}.png", data) for n, data in enumerate(photos)))
    assert [read_bytes(bytes_uri(path.as_uri(), *place), LIMITS) for place in places] == photos


def test_parts_of_fifos_and_folders_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, what in ((tmp_path / "pipe", "a FIFO"), (tmp_path, "a directory")):
        for uri in (bytes_uri(path.as_uri(), 0, 10), cell_uri(path.as_uri(), 0, "image")):
            with pytest.raises(PhotoError, match=f"^not a file: {what}"):
                read_bytes(uri, LIMITS)


def test_a_name_cannot_lead_to_another_store(tmp_path: Path) -> None:
    """fsspec takes "::" for a chain of URLs, so that an object's name could be any address."""
    (tmp_path / "secret").write_bytes(b"secret")
    chain = f"memory://a::file://{tmp_path}/secret"
    with fsspec.open(chain.replace("memory://a", "simplecache"), "rb") as file:
        assert file.read() == b"secret"
    for uri in (chain, f"simplecache::file://{tmp_path}/secret", "simplecache::http://127.0.0.1:9/a.jpg"):
        with pytest.raises(PhotoError, match="^(missing|unreadable): "):
            read_bytes(uri, LIMITS)


# ------------------------------------------------------------------------------------------------ Parquet


def photos_of(count: int, size: int = 900) -> list[bytes]:
    return [os.urandom(size) + index.to_bytes(4, "big") for index in range(count)]


def write_struct(path: Path, photos: list[bytes | None], rows: int = 10) -> str:
    cells = [None if data is None else {"bytes": data, "path": f"{i}.jpg"} for i, data in enumerate(photos)]
    pq.write_table(pa.table({"image": pa.array(cells, STRUCT), "n": range(len(photos))}), path, row_group_size=rows)
    return path.as_uri()


def test_every_cell_of_a_struct_and_of_a_plain_column(tmp_path: Path) -> None:
    photos = photos_of(35)
    uri = write_struct(tmp_path / "a#row=1&column=x.parquet", photos)
    assert [read_bytes(cell_uri(uri, row, "image.bytes"), LIMITS) for row in range(35)] == photos
    for kind in (pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.binary())):
        pq.write_table(pa.table({"jp g&#": pa.array(photos, pa.binary()).cast(kind)}), tmp_path / "b.parquet")
        plain = (tmp_path / "b.parquet").as_uri()
        assert [read_bytes(cell_uri(plain, row, "jp g&#"), LIMITS) for row in (0, 34)] == [photos[0], photos[34]]


def test_what_a_cell_can_lack_is_said(tmp_path: Path) -> None:
    uri = write_struct(tmp_path / "a.parquet", [b"x" * 100, None])
    pq.write_table(pa.table({"image": pa.array([], STRUCT)}), tmp_path / "empty.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    for where, row, column, reason in (
        (uri, 1, "image.bytes", "missing: the cell is empty"),
        (uri, 2, "image.bytes", "missing: row 2; the file has 2"),
        (uri, 0, "picture", "missing: no column 'picture'; the file has image.bytes, image.path, n"),
        (uri, 0, "image", "missing: no column 'image'"),
        (uri, 0, "n", "unreadable: the column holds int64"),
        ((tmp_path / "empty.parquet").as_uri(), 0, "image.bytes", "missing: row 0; the file has 0"),
        ((tmp_path / "none.parquet").as_uri(), 0, "image.bytes", "missing: "),
        ((tmp_path / "cut.parquet").as_uri(), 0, "image.bytes", "unreadable: ArrowInvalid"),
    ):
        with pytest.raises(PhotoError) as error:
            read_bytes(cell_uri(where, row, column), LIMITS)
        assert error.value.reason.startswith(reason)
    with pytest.raises(PhotoError, match="^too many bytes: 100, the limit is 99"):
        read_bytes(cell_uri(uri, 0, "image.bytes"), Limits(max_bytes=99))


def test_cells_behind_fsspec(tmp_path: Path) -> None:
    photos = photos_of(25)
    write_struct(tmp_path / "a.parquet", photos)
    fsspec.filesystem("memory").pipe_file("/cells/a#1.parquet", (tmp_path / "a.parquet").read_bytes())
    uri = encoded_uri("memory://cells/a#1.parquet")
    assert [read_bytes(cell_uri(uri, row, "image.bytes"), LIMITS) for row in (3, 24, 11)] == [
        photos[3], photos[24], photos[11],
    ]  # fmt: skip


def test_neighbours_are_read_once_and_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = photos_of(100, 10_000)
    uri = write_struct(tmp_path / "a.parquet", photos, rows=10)
    cells = ParquetCells(kept_bytes=450_000)
    read: list[int] = []
    pieces = parquet_cells._File.pieces

    def counted(self: parquet_cells._File, group: int, page: int, column: str) -> Iterator[pa.Array]:
        read.append(group)
        return pieces(self, group, page, column)

    monkeypatch.setattr(parquet_cells._File, "pieces", counted)
    for row in range(100):
        cell = parquet_cells.Cell(row, "image.bytes")
        assert cells.read(uri, cell, LIMITS) == photos[row]
        assert cells.bytes_kept <= 450_000
    assert read == list(range(10))
    assert cells.read(uri, parquet_cells.Cell(99, "image.bytes"), LIMITS) == photos[99] and len(read) == 10
    assert cells.read(uri, parquet_cells.Cell(0, "image.bytes"), LIMITS) == photos[0] and len(read) == 11


def test_a_row_group_that_is_too_large_is_read_up_to_the_photo(tmp_path: Path) -> None:
    photos = photos_of(2000, 20_000)
    uri = write_struct(tmp_path / "a.parquet", photos, rows=2000)
    cells = ParquetCells(kept_bytes=4_000_000)
    cells.read(uri, parquet_cells.Cell(0, "image.bytes"), LIMITS)
    before = pa.total_allocated_bytes()
    for row in (1999, 0, 1234, 49, 50):
        assert cells.read(uri, parquet_cells.Cell(row, "image.bytes"), LIMITS) == photos[row]
    assert cells.bytes_kept == 0 and pa.total_allocated_bytes() - before < 10_000_000


@pytest.mark.parametrize("options", [{}, {"data_page_size": 20, "write_batch_size": 100}])
def test_a_photo_repeated_without_space_does_not_fill_the_memory(tmp_path: Path, options: dict[str, int]) -> None:
    """A dictionary holds the value once: the file and what it says of itself are small, the column is 300 MB."""
    table = pa.table({"image": pa.array([b"x" * 1_000_000] * 300, pa.binary())})
    pq.write_table(table, tmp_path / "a.parquet", **options)
    assert (tmp_path / "a.parquet").stat().st_size < 1_200_000
    uri = (tmp_path / "a.parquet").as_uri()
    pool = pa.default_memory_pool()
    cells = ParquetCells(kept_bytes=32_000_000)
    before = pool.bytes_allocated()
    assert len(cells.read(uri, parquet_cells.Cell(250, "image"), LIMITS)) == 1_000_000
    assert pool.bytes_allocated() - before < 32_000_000
    (pages,) = cells._files[uri]._pages.values()
    assert (pages is not None) == bool(options)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("codec", ["none", "snappy", "zstd", "gzip", "brotli", "lz4"])
@pytest.mark.parametrize("dictionary", [False, True])
def test_pages_are_read_by_themselves(tmp_path: Path, version: str, codec: str, dictionary: bool) -> None:
    photos: list[bytes | None] = [os.urandom(100 + 37 * (n % 40)) for n in range(200)]
    for absent in (0, 17, 18, 63, 199):
        photos[absent] = None
    photos[100:140] = [photos[1]] * 40
    cells = [None if data is None else {"bytes": data, "path": "x"} for data in photos]
    table = pa.table({"image": pa.array(cells, STRUCT), "plain": pa.array(photos, pa.binary()), "n": range(200)})
    pq.write_table(
        table, tmp_path / "a.parquet", row_group_size=90, compression=codec, data_page_version=version,
        use_dictionary=dictionary, dictionary_pagesize_limit=20_000, data_page_size=2000, write_batch_size=1,
    )  # fmt: skip
    uri = (tmp_path / "a.parquet").as_uri()
    for column in ("image.bytes", "plain"):
        reader = ParquetCells()
        for row in [*range(200), *range(199, 0, -7)]:
            if photos[row] is None:
                with pytest.raises(PhotoError, match="^missing: the cell is empty"):
                    reader.read(uri, parquet_cells.Cell(row, column), LIMITS)
            else:
                assert reader.read(uri, parquet_cells.Cell(row, column), LIMITS) == photos[row], (column, row)
        found = reader._files[uri]._pages
        # The LZ4 of Parquet is two formats, which the file does not tell apart: left to Arrow.
        assert all((pages is None) == (codec == "lz4") for pages in found.values())
        # In the second row group no photo is absent: without compression and dictionary each lies there as it is.
        assert len(found) == (2 if codec == "none" and not dictionary else 3)
        assert codec == "lz4" or sum(len(pages.rows) for pages in found.values() if pages) > 30


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("nullable", [False, True])
def test_photos_that_are_not_compressed_are_read_as_from_a_tar(tmp_path: Path, version: str, nullable: bool) -> None:
    photos = [os.urandom(n * 3) for n in range(150)]
    schema = pa.schema([pa.field("a", pa.binary(), nullable), pa.field("b", STRUCT, nullable)])
    table = pa.table({"a": photos, "b": [{"bytes": data, "path": "x"} for data in photos]}, schema=schema)
    for name, more in (("one", {}), ("many", {"data_page_size": 500, "write_batch_size": 1})):
        pq.write_table(
            table, tmp_path / f"{name}.parquet", row_group_size=100, compression="none", use_dictionary=False,
            data_page_version=version, **more,
        )  # fmt: skip
        uri = (tmp_path / f"{name}.parquet").as_uri()
        for column in ("a", "b.bytes"):
            reader = ParquetCells()
            found = [reader.read(uri, parquet_cells.Cell(row, column), LIMITS) for row in range(150)]
            assert found == photos and reader.bytes_kept == 0
            assert len(reader._files[uri]._values) == 2 and all(reader._files[uri]._values.values())
            with pytest.raises(PhotoError, match="^too many bytes: 447, "):
                reader.read(uri, parquet_cells.Cell(149, column), Limits(max_bytes=446))


@pytest.mark.parametrize(("codec", "most"), [("none", 60_000), ("snappy", 1_300_000)])
def test_one_photo_of_a_large_row_group_costs_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str, most: int
) -> None:
    """As today's `datasets` writes: row groups of 100 MB, pages of 1 MB, no compression, no dictionary."""
    photos = photos_of(400, 50_000)
    pq.write_table(
        pa.table({"image": pa.array([{"bytes": data, "path": "x"} for data in photos], STRUCT)}), tmp_path / "a.parquet",
        compression=codec, use_dictionary=False, data_page_size=1 << 20, write_batch_size=1,
    )  # fmt: skip
    uri = (tmp_path / "a.parquet").as_uri()
    read: list[int] = []
    real = parquet_cells._opened

    class Counting:
        def __init__(self, stream: pa.NativeFile) -> None:
            self._stream = stream

        def read_at(self, size: int, offset: int) -> bytes:
            read.append(size)
            return bytes(self._stream.read_at(size, offset))

        def __getattr__(self, name: str) -> object:
            return getattr(self._stream, name)

    monkeypatch.setattr(parquet_cells, "_opened", lambda uri: Counting(real(uri)))
    assert ParquetCells().read(uri, parquet_cells.Cell(321, "image.bytes"), LIMITS) == photos[321]
    assert sum(read) < most


@pytest.mark.parametrize("codec", ["none", "snappy"])
def test_damaged_pages_are_photos_that_cannot_be_read(tmp_path: Path, codec: str) -> None:
    photos = photos_of(60, 300)
    pq.write_table(
        pa.table({"image": photos}), tmp_path / "a.parquet", use_dictionary=False, data_page_size=2000,
        write_batch_size=1, compression=codec,
    )  # fmt: skip
    whole = (tmp_path / "a.parquet").read_bytes()
    chance = np.random.default_rng(5)
    failed = 0
    for _ in range(60):
        broken = bytearray(whole)
        for place in chance.integers(4, len(whole) // 2, size=chance.integers(1, 30)):
            broken[place] ^= int(chance.integers(1, 256))
        (tmp_path / "b.parquet").write_bytes(broken)
        for row in range(0, 60, 7):
            try:
                data = read_bytes(cell_uri((tmp_path / "b.parquet").as_uri(), row, "image"), LIMITS)
            except PhotoError:
                failed += 1
            else:
                assert len(data) < len(whole)
    assert failed > 20


def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    cells = ParquetCells()
    cell = parquet_cells.Cell(3, "image.bytes")
    for _ in range(2):
        photos = photos_of(5)
        uri = write_struct(tmp_path / "new.parquet", photos)
        shutil.move(tmp_path / "new.parquet", tmp_path / "a.parquet")
        assert cells.read(uri.replace("new", "a"), cell, LIMITS) == photos[3]


def test_many_threads_read_the_right_cells(tmp_path: Path) -> None:
    photos = {name: photos_of(60) for name in "abc"}
    uris = {name: write_struct(tmp_path / f"{name}.parquet", photos[name]) for name in photos}
    cells = ParquetCells(kept_bytes=120_000, kept_files=2)
    wanted = [(name, row) for row in range(60) for name in photos] * 3
    np.random.default_rng(1).shuffle(wanted)

    def right(name: str, row: str) -> bool:
        return cells.read(uris[name], parquet_cells.Cell(int(row), "image.bytes"), LIMITS) == photos[name][int(row)]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(right, *zip(*wanted, strict=True)))
    assert 0 <= cells.bytes_kept <= 120_000
    kept = [sum(piece.nbytes for piece in pieces) for pieces, _ in cells._groups.values()]
    assert sum(kept) == cells.bytes_kept


def test_a_photo_in_a_cell_is_a_photo(tmp_path: Path) -> None:
    uri = write_struct(tmp_path / "a.parquet", [encode(picture(), "PNG")])
    photo = read_photo(record_of(cell_uri(uri, 0, "image.bytes")), LIMITS)
    np.testing.assert_array_equal(photo.pixels_HW3, picture())
    assert photo.data == encode(picture(), "PNG")
