"""LabelStore: the grid of shards and columns. Knows which cells are committed and where; the only module with paths.

store.json                                    the ShardPlan, written once
manifest.parquet                              one row per image in shard order, one row group per shard
growth/0001.json                              what came and went since then (pipeline/growth.py)
labels/<expert>@<version>/expert.json         the ExpertCard
labels/<expert>@<version>/shard-000042.json   the receipt, which names the two files below
labels/<expert>@<version>/shard-000042.<attempt>.parquet and .tar
attempts/<run>/<unit>.json                    the journal of units in work, gone when they are done
"""

from __future__ import annotations

import datetime
import functools
import json
import re
import shutil
import socket
import tempfile
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from expert_zoo.card import ExpertCard
from manifests.manifest import Manifest, cut
from manifests.record import ImageRecord
from pipeline.cards import column_meant, read_card
from pipeline.cell import CellReader, CellWriter
from pipeline.errors import DamagedCell, StoreError, UnknownFormat
from pipeline.growth import GrownPlan, grown
from pipeline.plan import FORMAT, MANIFEST, MOST_SHARDS, Shard, ShardPlan, shard_name
from pipeline.receipt import Receipt, Seconds, installed_packages, worker
from pipeline.shard_records import ShardRecords, is_cut_by
from pipeline.storage import LocalStorage, Storage, open_storage

PLAN = "store.json"
LABELS = "labels"
ATTEMPTS = "attempts"
CARD = "expert.json"
_COLUMN = re.compile(r"[a-z][a-z0-9_]*@[0-9a-f]{10}")
_RECEIPT = re.compile(r"shard-(\d{6,})\.json")


class LabelStore:
    """A store that has a plan. `open` one, or `create` it from a manifest."""

    def __init__(self, storage: Storage, plan: ShardPlan) -> None:
        self.storage = storage
        self.plan = plan
        self._records = ShardRecords(storage, plan)

    @classmethod
    def open(cls, url: str) -> LabelStore:
        """Raises StoreError where there is no store, or one that this version cannot read."""
        storage = open_storage(url)
        try:
            text = storage.read(PLAN)
        except (FileNotFoundError, NotADirectoryError):
            raise StoreError(
                f"no store at {url}: {PLAN} is missing; `expert-labels label JOB.yaml` makes one"
            ) from None
        try:
            found = json.loads(text)
            if found.get("format") != FORMAT:
                raise StoreError(f"{url} has store format {found.get('format')!r}; this version reads format {FORMAT}")
            plan = ShardPlan.model_validate(found, extra="ignore")
        except (ValueError, AttributeError, RecursionError) as error:
            raise StoreError(f"{url}/{PLAN} is not a plan: {error}") from error
        return cls(storage, grown(storage, plan))

    @classmethod
    def create(
        cls, url: str, manifest: Manifest, *, shard_size: int, sources: list[dict[str, object]] | None = None
    ) -> LabelStore:
        """Cuts ``manifest`` into shards and saves the plan, once; the same call again opens what is there.

        Raises StoreError if the store holds another plan, since a store is never re-cut, and for more shards than can be read.
        """
        storage = open_storage(url)
        plan = ShardPlan(
            manifest=manifest.fingerprint,
            images=len(manifest),
            shard_size=shard_size,
            seed=manifest.seed,
            sources=sources or [],
        )
        if len(plan) > MOST_SHARDS:
            raise StoreError(
                f"{plan.images} images in shards of {shard_size} are {len(plan)} shards, and a store has at most {MOST_SHARDS}: "
                f"expected a shard_size of {-(-plan.images // MOST_SHARDS)} or more, or several stores"
            )
        if not storage.exists(PLAN):
            temporary = f"{uuid.uuid4().hex}.{MANIFEST}"
            _cut_into(storage, temporary, manifest, shard_size)
            if not storage.settle(temporary, MANIFEST) and not storage.exists(PLAN):
                _check_left_over(storage, plan)
            storage.publish(PLAN, json.dumps(plan.model_dump(mode="json"), indent=1).encode())
        store = cls.open(url)
        found = store.plan.first if isinstance(store.plan, GrownPlan) else store.plan
        if found.fingerprint != plan.fingerprint:
            raise StoreError(
                f"{url} was planned otherwise ({plan.difference(found)}); a store is never re-cut: "
                "name another store, or restore the job file that made this one"
            )
        return store

    # ---- the manifest

    def records(self, shard: Shard, *, dropped: bool = False) -> list[ImageRecord]:
        """The shard's images, in manifest order: one row group, one read. ``dropped``: with those that were taken out."""
        records = self._records.of(shard)
        return records if dropped or not shard.dropped else [records[row] for row in shard.kept]

    # ---- columns

    def add_column(self, card: ExpertCard) -> None:
        """Writes the card of a new column; StoreError if the column has a card that means something else."""
        name = f"{LABELS}/{card.column}/{CARD}"
        if not self.storage.exists(name) and self.storage.publish(name, card.model_dump_json(indent=1).encode()):
            return
        if self.card(card.column).version != card.version:
            raise StoreError(
                f"{self.storage.url}/{name} is not the card of version {card.version}; it was changed by hand"
            )

    def columns(self) -> dict[str, ExpertCard]:
        """Every column's card by column name (``expert@version``), sorted; without the `unknown_columns`."""
        return self._cards_and_unknown()[0]

    def unknown_columns(self) -> dict[str, str]:
        """Columns whose kind or quantity this version does not know, and what is unknown of each."""
        return self._cards_and_unknown()[1]

    def _cards_and_unknown(self) -> tuple[dict[str, ExpertCard], dict[str, str]]:
        cards: dict[str, ExpertCard] = {}
        unknown: dict[str, str] = {}
        for column in sorted(name for name in self.storage.names(LABELS) if _COLUMN.fullmatch(name)):
            if self.storage.exists(f"{LABELS}/{column}/{CARD}"):
                try:
                    cards[column] = self.card(column)
                except UnknownFormat as error:
                    unknown[column] = str(error)
        return cards, unknown

    def card(self, column: str) -> ExpertCard:
        """Raises UnknownFormat for a kind or quantity of a later version, StoreError where there is no card."""
        name = f"{LABELS}/{column}/{CARD}"
        try:
            data = self.storage.read(name)
        except FileNotFoundError:
            raise StoreError(f"{self.storage.url} has no column {column}; `expert-labels status` lists them") from None
        return read_card(data, f"{self.storage.url}/{name}")

    def column_of(self, name: str) -> str:
        """The column meant by ``expert`` or ``expert@version``; StoreError if none or more than one fits.

        Of several versions of an expert the only one with a committed cell is meant.
        """
        return column_meant(
            name,
            list(self.columns()),
            self.unknown_columns,
            lambda column: bool(self.committed(column)),
            self.storage.url,
        )

    # ---- cells

    def committed(self, column: str, *, beyond: bool = False) -> set[int]:
        """Indices of the shards whose cell in ``column`` is committed. Lists receipts, reads none.

        ``beyond``: also those of shards that the plan does not have, which is `audit`'s business.
        """
        matches = map(_RECEIPT.fullmatch, self.storage.names(f"{LABELS}/{column}"))
        return {int(match[1]) for match in matches if match and (beyond or int(match[1]) < len(self.plan))}

    def is_committed(self, column: str, shard: Shard) -> bool:
        return self.storage.exists(self._receipt_name(column, shard.index))

    def receipt(self, column: str, shard: Shard) -> Receipt:
        """Raises StoreError if the cell is not committed or of another plan, UnknownFormat if another version wrote it,
        DamagedCell if the receipt is no receipt.
        """
        receipt = self._find_receipt(column, shard)
        if receipt is None:
            raise StoreError(f"cell {column}/{shard.name} is not committed")
        return receipt

    def _find_receipt(self, column: str, shard: Shard) -> Receipt | None:
        name = self._receipt_name(column, shard.index)
        try:
            data = self.storage.read(name)
        except FileNotFoundError:
            return None
        return Receipt.of_cell(data, name, self.plan.part(shard.index).fingerprint, column, shard.index)

    def writer(self, card: ExpertCard, shard: Shard) -> tuple[str, CellWriter]:
        """A new attempt at a cell: its unique name and the writer of its two data files."""
        attempt = uuid.uuid4().hex[:12]
        plan = self.plan.part(shard.index).fingerprint
        metadata = {"expert_card": card.model_dump_json(), "plan": plan, "shard": str(shard.index)}
        return attempt, CellWriter(self.storage, self._stem(card.column, shard.index, attempt), card, metadata)

    def commit(
        self,
        card: ExpertCard,
        shard: Shard,
        attempt: str,
        writer: CellWriter,
        seconds: Seconds,
        *,
        replacing: Receipt | None = None,
    ) -> Receipt | None:
        """Makes the cell real: both files durable, then the receipt. None if another worker committed it first.

        ``replacing``: the receipt that a retry started from. The new one takes its place, and the files that it names become
        garbage; where another one is there by now, or none, the retry came too late and None is returned.
        """
        rows = writer.rows
        assert len(rows) == shard.rows, f"{len(rows)} rows for {shard.rows} images"
        table, tar = writer.finish()
        part = self.plan.part(shard.index)
        receipt = Receipt(
            format=part.receipt_format,
            column=card.column,
            shard=shard.index,
            attempt=attempt,
            plan=part.fingerprint,
            rows=rows,
            table=table,
            tar=tar,
            seconds=seconds,
            licence=card.licence,
            commercial_use=card.commercial_use,
            random_weights=card.random_weights,
            committed_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            host=socket.gethostname(),
            packages=installed_packages(),
            worker=worker(),
            statistics=writer.statistics,
        )
        if self._replace(shard, receipt, replacing) if replacing else self._publish(shard, receipt):
            return receipt
        self.remove_files(receipt)
        return None

    def _replace(self, shard: Shard, receipt: Receipt, old: Receipt) -> bool:
        def stands(data: bytes) -> bool:
            try:
                return Receipt.read(data).attempt == old.attempt
            except (ValidationError, UnknownFormat):
                return False

        return self.storage.replace_if(self._receipt_name(receipt.column, shard.index), stands, receipt.to_bytes())

    def _publish(self, shard: Shard, receipt: Receipt) -> bool:
        for _ in range(2):  # once more where a receipt was there and was withdrawn before it could be read
            if self.storage.publish(self._receipt_name(receipt.column, shard.index), receipt.to_bytes()):
                return True
            if found := self._find_receipt(receipt.column, shard):
                # A link or a PUT that was repeated because its answer got lost finds our own: that is no defeat.
                return found.attempt == receipt.attempt
        return False

    def read(self, column: str, shard: Shard, receipt: Receipt | None = None, *, dropped: bool = False) -> CellReader:
        """The committed cell's rows and labels. Raises StoreError or DamagedCell.

        Its rows are those of `records`, image by image. ``dropped``: with those of images that were taken out.
        """
        receipt = receipt or self.receipt(column, shard)
        try:
            with self.storage.open(f"{LABELS}/{column}/{receipt.table.name}") as stream:
                table = pq.read_table(stream)
            tar = self.storage.open(f"{LABELS}/{column}/{receipt.tar.name}") if receipt.tar else None
        except (FileNotFoundError, ValueError, OSError) as error:
            raise DamagedCell(
                f"cell {column}/{shard.name}: {error}; `expert-labels audit --repair` takes it back"
            ) from error
        if shard.dropped and not dropped and table.num_rows == shard.rows:
            table = table.take(pa.array(shard.kept, pa.int64()))
        return CellReader(self.card_cached(column), receipt, table, tar)

    def remove_files(self, receipt: Receipt) -> None:
        """Deletes the data files that ``receipt`` names."""
        for entry in (receipt.table, receipt.tar):
            if entry is not None:
                self.storage.delete(f"{LABELS}/{receipt.column}/{entry.name}")

    def withdraw(self, column: str, shard_index: int) -> None:
        """Takes a commit back: the cell is missing again and the next labelling job fills it."""
        self.storage.delete(self._receipt_name(column, shard_index))

    def forget_attempts(self, run: str) -> None:
        """Removes what is left of a run's journal: entries of units that a killed worker never took up again."""
        for name in self.storage.names(f"{ATTEMPTS}/{run}"):
            self.storage.delete(f"{ATTEMPTS}/{run}/{name}")
        self.storage.prune(f"{ATTEMPTS}/{run}")
        self.storage.prune(ATTEMPTS)

    def folder(self, column: str) -> str:
        """Where a column's files are, relative to the store."""
        return f"{LABELS}/{column}"

    @functools.cached_property
    def _cards(self) -> dict[str, ExpertCard]:
        return {}

    def card_cached(self, column: str) -> ExpertCard:
        """As `card`, read once: a column's card never changes."""
        if column not in self._cards:
            self._cards[column] = self.card(column)
        return self._cards[column]

    def _receipt_name(self, column: str, index: int) -> str:
        return f"{LABELS}/{column}/{shard_name(index)}.json"

    def _stem(self, column: str, index: int, attempt: str) -> str:
        return f"{LABELS}/{column}/{shard_name(index)}.{attempt}"


def _cut_into(storage: Storage, name: str, manifest: Manifest, shard_size: int) -> None:
    """As `cut`. What does not lie on a disk goes there by the storage's own calls, which are repeated where they fail."""
    if isinstance(storage, LocalStorage):
        cut(manifest, f"{storage.url}/{name}", shard_size)
        return
    with tempfile.TemporaryDirectory(prefix="plan-") as folder:
        path = Path(folder, MANIFEST)
        cut(manifest, str(path), shard_size)
        with path.open("rb") as stream, storage.create(name) as file:
            shutil.copyfileobj(stream, file, 1 << 20)


def _check_left_over(storage: Storage, plan: ShardPlan) -> None:
    """A manifest without a plan: another process is planning the same, or one was killed between the two files."""
    with storage.open(MANIFEST) as stream:
        left = pq.ParquetFile(stream).metadata
    if not is_cut_by(plan.parts[0], left):
        shards = f"{left.num_rows} images in shards of {left.row_group(0).num_rows}"
        raise StoreError(
            f"{storage.url}/{MANIFEST} has {shards} and no {PLAN} beside it; expected the {plan.images} images of manifest "
            f"{plan.manifest[:16]} in shards of {plan.shard_size}: planning was interrupted, remove that file if no other "
            "job is planning this store"
        )
