"""The loop: global batches in, a trained method out. It knows no method, no data set and no file format.

A step is one global batch: this rank's micro-batches of it are added up, all ranks' are averaged, and the optimizer steps once.
The number of steps done is the reader's position, the schedule's and the checkpoint's: there is no other clock.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from signal import SIGTERM

import torch
from torch import Tensor

from pipeline.errors import ExpertLabelsError
from trainer import generators, snapshot
from trainer.beginning import prepare
from trainer.checkpoint import About, Checkpoint, Checkpoints
from trainer.errors import CheckpointError, NotFinite, RecipeError
from trainer.fingerprint import StoreFingerprint
from trainer.ledger import LAG, Ledger
from trainer.logs import Clock, Logs, Window
from trainer.method import Batch, Feed, Method
from trainer.optim import Schedule, Updates, make_adamw
from trainer.ranks import Ranks
from trainer.sharding import agree_on_statistics, filled, hollow, shared_out, statistics_of, without_exchange
from trainer.signals import Signals
from trainer.training import Split, Training, check_same

#: So many steps in a row without a scale that fits, each with half the scale of the one before: it is not the scale.
OVERFLOWS = 40
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

#: Numbers of a method as it stands, in eval and whole on every rank: for instance its accuracy on a validation set. Every rank calls it.
Evaluate = Callable[[Method], Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """steps: done, by this run and those before it. signal: that ended it before it was finished, with everything kept."""

    steps: int
    finished: bool
    signal: int | None


@dataclass
class _Entry:
    """One step on its way through the ledger. ids, losses: of this rank's micro-batches."""

    done: int
    rate: float
    ids: list[Sequence[str]]
    losses: list[Tensor]


@dataclass
class _Progress:
    """What the loop counts; kept in checkpoints."""

    window: Window = field(default_factory=Window)
    bad_steps: int = 0
    overflows: int = 0


class Loop:
    """A run in ``folder``: begun, or gone on with if there is a checkpoint. `run` it once.

    store: what the feed reads, to be the same when the run is gone on with. Raises TrainingError for what cannot begin.
    """

    def __init__(
        self,
        *,
        method: Method,
        feed: Feed,
        recipe: Training,
        ranks: Ranks,
        folder: Path,
        store: StoreFingerprint | None = None,
        evaluate: Evaluate | None = None,
    ) -> None:
        self.recipe, self.ranks, self.folder, self.feed, self.store = recipe, ranks, folder, feed, store
        self.split = Split.of(recipe.batch, ranks=ranks.count)
        self.steps = recipe.total_steps(feed.per_epoch)
        self.schedule = Schedule(**recipe.schedule.model_dump(), steps=self.steps)
        if evaluate is None and (recipe.evaluate_every or recipe.checkpoints.best):
            raise RecipeError(
                "`evaluate_every`, `checkpoints.best`: nothing is evaluated in this run; expected neither of them"
            )
        choice = recipe.checkpoints
        self.checkpoints = Checkpoints(str(folder / "checkpoints"), keep=choice.keep, best=choice.best)
        if ranks.by_first(self._is_whole):
            # What it was begun with is in its checkpoint, and may be gone.
            recipe = recipe.model_copy(update={"start_from": None})
        self._notes = prepare(method, recipe, store)
        self._hollow = hollow(method) if evaluate and recipe.sharding != "ddp" and ranks.count > 1 else None
        self.method = method.to(ranks.device)
        self._frozen = snapshot.frozen_digest(method)
        self.module = shared_out(method, recipe.sharding, ranks)
        try:
            self.optimizer = make_adamw(method, recipe.optimizer)
        except ValueError as error:
            raise RecipeError(str(error)) from error
        self._statistics = statistics_of(method)
        scaled = recipe.precision == "fp16"
        self.updates = Updates(self.optimizer, clip=recipe.optimizer.clip, scaled=scaled, device=ranks.device)
        self.done = 0
        self._saved = 0
        self._evaluate = evaluate
        self._progress = _Progress()
        self._ledger: Ledger[_Entry] = Ledger(lag=LAG if ranks.device.type == "cuda" else 0)
        self._clock = Clock()
        self._stopping = False
        self._stats: list[str] = []

    def run(self) -> Outcome:
        """Trains to the end, or until somebody wants it to stop. Raises NotFinite, CheckpointError."""
        notes = self._resume()
        with ExitStack() as stack:
            logs = Logs(self.folder, self.recipe.log, start=self.done, steps=self.steps, writes=self.ranks.first)
            self._logs = stack.enter_context(logs)
            signals = stack.enter_context(Signals())
            for note in [
                *self._notes,
                *notes,
                f"batches of {self.split}; {self.steps} steps, {self.feed.per_epoch} an epoch",
            ]:
                self._logs.say(note)
            self.module.train()
            feed = self.feed.steps(self.done)
            self._clock = Clock()
            while self.done < self.steps and not self._stopping:
                self._step(self._next(feed), stop=signals.caught is not None)
                self._settle()
                if self._is_due(self.recipe.checkpoints.every) or self._is_due(self.recipe.evaluate_every):
                    self._keep()
            self._keep()
            finished = self.done == self.steps
            # Of ranks that stop together, the signal may have come to another one.
            return Outcome(steps=self.done, finished=finished, signal=None if finished else signals.caught or SIGTERM)

    def _is_whole(self) -> bool:
        """Whether there is a checkpoint to go on from that holds all parameters, frozen ones too."""
        latest = self.checkpoints.latest()
        return latest is not None and latest.about.frozen is None

    def only_begin(self) -> str:
        """Keeps what the run would begin with as its checkpoint of step 0, and where that is. Raises CheckpointError where it has one."""
        if self.ranks.by_first(self.checkpoints.steps):
            raise CheckpointError(f"{self.folder} is begun already; name another folder")
        return self._save({})

    def _resume(self) -> list[str]:
        """Goes on where the run's latest checkpoint was written. Returns lines to say."""
        latest: Checkpoint | None = None

        def look() -> tuple[About, list[str]] | None:
            nonlocal latest
            latest = self.checkpoints.latest()
            if latest is None:
                return None
            about = latest.about
            if self.store is not None and about.store is not None:
                self.store.check_same(about.store, where=latest.url)
            notes = check_same(self.recipe.model_dump(mode="json"), about.recipe, where=latest.url)
            snapshot.check_fits(latest, method=self.method, frozen=self._frozen)
            return about, [f"going on from step {about.step} ({latest.url})", *notes]

        found = self.ranks.by_first(look)
        if found is None:
            generators.seed_all(generators.mixed(self.recipe.seed, 0, self.ranks.rank))
            return []
        about, notes = found
        changed = snapshot.restore(
            latest, method=self.method, optimizer=self.optimizer, ranks=self.ranks, seed=self.recipe.seed
        )
        progress = dict(about.progress)
        self.updates.load_state(progress.pop("scaler"))
        self._progress = _Progress(window=Window(**progress.pop("window")), **progress)
        self.done = self._saved = about.step
        return [*notes, *([changed] if changed else [])]

    def _next(self, feed: Iterator[Sequence[Batch]]) -> Sequence[Batch]:
        start = time.perf_counter()
        try:
            parts = next(feed)
        except ExpertLabelsError as error:
            if not self.ranks.first:  # which alone speaks, but may have read well
                print(f"rank {self.ranks.rank}: {error}", file=sys.stderr, flush=True)
            raise
        self._clock.wait(time.perf_counter() - start)
        return parts

    def _step(self, parts: Sequence[Batch], *, stop: bool) -> None:
        """One global batch. Nothing here waits for the device."""
        device, count = self.ranks.device, self.ranks.count
        weights_A = torch.tensor([float(self.method.weight(part)) for part in parts], dtype=torch.float64)
        weights_A = weights_A.to(device, non_blocking=True)
        shares_A = weights_A / self.ranks.add_up(weights_A.sum())
        statistics = self._statistics if self.recipe.skip_bad_steps else []
        kept = [tensor.clone() for tensor in statistics]
        entry = _Entry(self.done + 1, self.schedule.rate(self.done), [part.ids for part in parts], [])
        report: Tensor | None = None
        for number, (part, share) in enumerate(zip(parts, shares_A, strict=True), 1):
            with without_exchange(self.module, last=number == len(parts)):
                with self._autocast():
                    loss, stats = self.module(part.to(device))
                # Ranks are averaged, and their shares add up to one.
                self.updates.backward(loss * (share * count).to(loss.dtype))
            entry.losses.append(loss.detach())
            self._stats = self._stats or list(stats)
            pairs = [number for name in self._stats for number in stats[name]]
            numbers = torch.stack(
                [
                    loss.detach().double() * share,
                    *(n.detach().to(device, torch.float64, non_blocking=True) for n in pairs),
                ]
            )
            report = numbers if report is None else report + numbers
        assert report is not None, "a step without a micro-batch"
        wish = torch.full((1,), float(stop), dtype=report.dtype, device=device)
        report = self.ranks.add_up(torch.cat([wish, report]))
        norm = self.updates.apply(entry.rate, loss=report[1]).to(report)
        for tensor, before in zip(statistics, kept, strict=True):
            tensor.copy_(torch.where(report[1].isfinite() & norm.isfinite(), tensor, before))
        self.done += 1
        self._ledger.add(entry, torch.cat([norm.reshape(1), report]))

    def _autocast(self) -> torch.autocast:
        lower = _TYPES.get(self.recipe.precision)
        # Shared out, a parameter is there only while it is used: a copy of it in another type must not outlive it.
        caching = self.recipe.sharding == "ddp"
        return torch.autocast(self.ranks.device.type, lower, enabled=lower is not None, cache_enabled=caching)

    def _settle(self, *, all_of_them: bool = False) -> None:
        """Reads what is known of steps by now. Every rank reads the same, at the same step."""
        for entry, (norm, stop, loss, *pairs) in self._ledger.settled(all_of_them=all_of_them):
            self._stopping |= stop > 0
            scaled = self.updates.scaler.is_enabled()
            if not math.isfinite(loss) or not (math.isfinite(norm) or scaled):
                self._bad(entry, loss)
            else:
                self._progress.overflows = 0 if math.isfinite(norm) else self._progress.overflows + 1
                if self._progress.overflows >= OVERFLOWS:
                    self._bad(entry, loss)
                stats = dict(zip(self._stats, zip(pairs[::2], pairs[1::2], strict=True), strict=True))
                self._progress.window.add(loss, norm, stats)
            if entry.done % self.recipe.log.every == 0 or entry.done == self.steps:
                self._say(entry)

    def _say(self, entry: _Entry) -> None:
        window = self._progress.window
        seconds, waiting = self._clock.look()
        speed = self.recipe.batch.size * window.steps / seconds if seconds else 0.0
        numbers = {"rate": entry.rate, "samples_per_second": speed, "waiting": waiting, **window.means()}
        if self.updates.scaler.is_enabled():
            numbers["loss_scale"] = self.updates.scaler.get_scale()
        self._logs.line(entry.done, {"epoch": (entry.done - 1) // self.feed.per_epoch, **numbers})
        self._progress.window = Window()

    def _bad(self, entry: _Entry, loss: float) -> None:
        """A step whose loss or gradients are not finite, which the optimizer left out. All ranks are here."""
        own = [(list(ids), math.isfinite(float(of_part))) for ids, of_part in zip(entry.ids, entry.losses, strict=True)]
        parts = [part for of_rank in self.ranks.gathered(own) for part in of_rank]
        # Gradients may be wrong where every loss is right: then it may have been any of them.
        ids = [name for names, finite in parts if not finite for name in names] or [
            n for names, _ in parts for n in names
        ]
        what = f"the gradients are not finite (loss {loss:.4g})" if math.isfinite(loss) else f"the loss is {loss}"
        some = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
        fact = f"step {entry.done}: {what} in a batch of {some} (learning rate {entry.rate:.3g})"
        self._progress.bad_steps += 1
        if self._progress.bad_steps > self.recipe.skip_bad_steps:
            last = f"the last checkpoint is of step {self._saved}" if self._saved else "there is no checkpoint yet"
            raise NotFinite(
                f"{fact}; {last}: look at these images and their labels, or lower `schedule.peak`, set `optimizer.clip`, allow "
                "`skip_bad_steps`"
            )
        self._logs.say(f"{fact}: left out, {self._progress.bad_steps} of {self.recipe.skip_bad_steps} allowed")

    def _is_due(self, every: int | None) -> bool:
        return every is not None and self.done % every == 0

    def _keep(self) -> None:
        """Evaluates where that is due, and writes a checkpoint; not if one of the steps until here was bad."""
        self._settle(all_of_them=True)
        if self.done == self._saved:
            return
        agree_on_statistics(self._statistics, self.ranks)
        metrics, wrong = dict[str, float](), None
        ends = self.done == self.steps
        if self._evaluate is not None and (ends or self._is_due(self.recipe.evaluate_every)):
            start = time.perf_counter()
            metrics, wrong = self._evaluated(self._evaluate)
            seconds = time.perf_counter() - start
            self._clock.leave_out(seconds)
            if metrics:
                self._logs.metrics(self.done, metrics, seconds=seconds)
        # What went wrong with the evaluation is told when what was trained until here is safe.
        if not (
            wrong
            or ends
            or self._stopping
            or self._is_due(self.recipe.checkpoints.every)
            or self.recipe.checkpoints.best
        ):
            return
        self._save(metrics)
        self._saved = self.done
        if wrong is not None:
            raise wrong

    def _save(self, metrics: dict[str, float]) -> str:
        return snapshot.save(
            self.checkpoints,
            method=self.method,
            optimizer=self.optimizer,
            ranks=self.ranks,
            recipe=self.recipe.model_dump(mode="json"),
            store=self.store,
            step=self.done,
            metrics=metrics,
            progress={**asdict(self._progress), "scaler": self.updates.state()},
            frozen=None if self.recipe.checkpoints.frozen else self._frozen,
        )

    def _evaluated(self, evaluate: Evaluate) -> tuple[dict[str, float], ExpertLabelsError | None]:
        """Numbers, or what went wrong, on every rank."""
        self._logs.say(f"step {self.done}: evaluating")
        self.module.eval()
        try:
            with generators.untouched(self.ranks.device), torch.no_grad(), self._whole() as method:
                return dict(evaluate(method)), None
        except ExpertLabelsError as error:
            return {}, error
        finally:
            self.module.train()

    def _whole(self) -> AbstractContextManager[Method]:
        return nullcontext(self.method) if self._hollow is None else filled(self._hollow, self.method)
