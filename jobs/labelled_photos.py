"""Photos labelled on the fly, in a store that is thrown away, with the experts that a trained model has learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from expert_zoo.card import ExpertCard
from expert_zoo.catalog import accepts
from jobs.job import load_choices
from manifests.manifest import ManifestWriter
from manifests.record import ImageRecord, path_id, to_batch
from pipeline.choices import ExpertChoice, Pack
from pipeline.errors import JobError
from pipeline.journal import Journal
from pipeline.labeller import Effort
from pipeline.loading import load_pack
from pipeline.photos import Limits, PhotoError, read_photo
from pipeline.store import LabelStore


def records_of(photos: Sequence[str]) -> list[ImageRecord]:
    """Records of files or addresses (scenes://7/3?size=112), each once. Raises JobError for one that is no photo."""
    records = []
    for photo in dict.fromkeys(photos):
        uri = photo if "://" in photo else Path(photo).expanduser().absolute().as_uri()
        record = ImageRecord(image_id=path_id(photo), source="photos", uri=uri)
        try:
            read_photo(record, Limits())
        except PhotoError as error:
            raise JobError(f"{photo}: {error.reason}; expected a photo that can be read") from error
        records.append(record)
    return records


def choices_for(cards: Mapping[str, ExpertCard], *, job: str | None, weights: str | None) -> list[ExpertChoice]:
    """The experts by name, as the job file ``job`` has them or with their default options. Raises JobError."""
    known = {choice.name: choice for choice in load_choices(job).experts} if job else {}
    choices: dict[str, ExpertChoice] = {}
    for card in cards.values():
        choice = known.get(card.name, ExpertChoice(name=card.name))
        try:
            if weights and accepts(choice.name, "weights_folder", use=choice.use):
                folder = str(Path(weights).expanduser().absolute())
                choice = choice.model_copy(update={"options": choice.options | {"weights_folder": folder}})
            _ = choice.create().card.version
        except ValueError as error:
            raise JobError(
                f"{error} (--weights names a folder of weights, --job a job file with the experts)"
            ) from error
        choices[card.name] = choice
    return list(choices.values())


def labelled(records: Sequence[ImageRecord], choices: Sequence[ExpertChoice], folder: Path, *, gpu: bool) -> LabelStore:
    """A store in ``folder`` with all labels of these photos; a label that failed is kept as such. Raises WorkerError."""
    with ManifestWriter(str(folder / "manifest.parquet"), seed=0) as writer:
        writer.write(to_batch(list(records)))
    store = LabelStore.create(str(folder / "store"), writer.manifest, shard_size=len(records))
    if not choices:
        return store
    pack = Pack(name="photos", experts=tuple(choices), gpus=1.0 if gpu else 0.0, effort=Effort(failure_limit=1.0))
    labeller = load_pack(pack, store)
    for expert in labeller.experts:
        store.add_column(expert.card)
    columns = [expert.card.column for expert in labeller.experts]
    for shard in store.plan.shards():
        labeller.label(shard, columns, Journal(store.storage, "photos", shard.name))
    for expert in labeller.experts:
        expert.release()
    return store
