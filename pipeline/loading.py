"""From a pack as a job describes it to a Labeller with its experts loaded: what every worker does once."""

from __future__ import annotations

import logging
from collections.abc import Collection

from expert_zoo.expert import line_of
from pipeline.choices import Pack
from pipeline.errors import WorkerError, in_full, in_one_line
from pipeline.golden import GoldenSamples
from pipeline.labeller import Labeller
from pipeline.store import LabelStore
from pipeline.watchdog import Watchdog

LOG = logging.getLogger(__name__)


def load_pack(
    pack: Pack,
    store: LabelStore,
    *,
    only: Collection[str] | None = None,
    golden: bool = False,
    watchdog: Watchdog | None = None,
) -> Labeller:
    """The pack's experts on this worker's device, ready to label shards of ``store``. ``only``: these of them, by name.

    ``watchdog``: is told of the units' signs of life. ``golden``: with a look at what each column's first worker said of the golden sample.

    Raises WorkerError, naming the expert, where one cannot be loaded or disagrees with the golden sample.
    """
    choices = [choice for choice in pack.experts if only is None or choice.name in only]
    experts = [choice.create() for choice in choices]
    use = {choice.name: choice.use for choice in choices}
    for expert in experts:
        try:
            expert.load("cuda:0" if pack.gpus else "cpu")
        except Exception as error:
            # A ValueError of an expert of the table is written for the user: which file is missing, and what brings it.
            why = str(error) if type(error) is ValueError else in_one_line(error)
            if type(error) is not ValueError or use[expert.card.name]:
                why += line_of(error, type(expert))
                LOG.error("expert %r cannot be loaded\n%s", expert.card.name, in_full(error))
            raise WorkerError(f"expert {expert.card.name!r} cannot be loaded: {why}") from error
    sizes = {choice.name: choice.batch_size for choice in choices if choice.batch_size}
    samples = GoldenSamples(store, experts) if golden else None
    return Labeller(store, experts, effort=pack.effort, batch_sizes=sizes, golden=samples, watchdog=watchdog)
