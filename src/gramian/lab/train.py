"""The training loop of the laboratory: the plain one, with one call of the compressor in it."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

from gramian.compression.compressor import Compressor
from gramian.compression.records import Event
from gramian.lab.config import Config
from gramian.lab.evaluate import evaluate, predictions
from gramian.lab.monitor import drift
from gramian.lab.run import Run
from gramian.lab.summary import summarize
from gramian.layers.reducible import Spectrum
from gramian.layers.spectra import spectra_of

__all__ = ["Interrupted", "Watcher", "optimize", "train"]


class Interrupted(Exception):
    """Training was stopped by Ctrl-C, after a checkpoint was written."""


class Watcher:
    """Told what happens in a run; this one does nothing with it."""

    def started(self, run: Run) -> None:
        """Before the first step."""

    def stepped(self, run: Run, row: dict[str, float]) -> None:
        """After a step whose row was logged."""

    def evaluated(self, run: Run, row: dict[str, float]) -> None:
        """After a validation."""

    def happened(self, run: Run, event: Event) -> None:
        """After a cut, a skipped cut or a roll-back, or when looks at the spectra become rarer or more frequent."""

    def finished(self, run: Run) -> None:
        """After the last step."""


def train(
    config: Config | None, folder: Path, *, resume: bool = False, watcher: Watcher | None = None
) -> dict[str, Any]:
    """Train `config` in a new `folder`, or go on with the run in it, and write everything there.

    Model selection looks at validation accuracy only, among the evaluations since the model last changed its size.

    Returns
    -------
    dict
        The content of ``summary.json``; see `gramian.lab.summary.summarize`.

    Raises
    ------
    Interrupted
        After Ctrl-C; the run can be resumed.
    """
    watcher = watcher or Watcher()
    if resume:
        run = Run.resume(folder)
    else:
        assert config is not None
        run = Run.begin(config, folder)
    if run.compressor is not None:
        run.compressor.spectra()  # compiled code is loaded now, and a layer without a spectrum is found now
    watcher.started(run)
    with _asked_to_stop() as stop:
        while run.step < run.config.train.steps:
            _one_step(run, watcher)
            if stop and run.step < run.config.train.steps:
                run.save_checkpoint()
                raise Interrupted(f"stopped at step {run.step}; continue with: gramian train --resume {folder}")
    if run.best is None or run.best["sizes"] != run.sizes:  # the last step has cut: no model of this size was kept yet
        watcher.evaluated(run, _validate(run))
    run.save_checkpoint()
    watcher.finished(run)
    return summarize(run)


@contextmanager
def _asked_to_stop() -> Iterator[list[int]]:
    """A list that is empty until Ctrl-C is pressed; a second Ctrl-C stops at once."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    try:
        before = signal.signal(signal.SIGINT, note)
    except ValueError:  # not in the main thread: Ctrl-C is somebody else's business
        yield asked
        return
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def _one_step(run: Run, watcher: Watcher) -> None:
    """One optimizer step and all that is due after it."""
    start = time.perf_counter()
    loss = optimize(run)
    seconds = time.perf_counter() - start
    run.step += 1
    run.seconds += seconds
    run.pending["loss"] += loss
    run.pending["steps"] += 1
    run.pending["seconds"] += seconds
    settings, last = run.config.train, run.step == run.config.train.steps
    if run.step % settings.log_every == 0 or last:
        watcher.stepped(run, _log(run))
    metric = None
    if run.step % settings.eval_every == 0 or last:
        row = _validate(run)
        metric = row["eval/accuracy"]
        watcher.evaluated(run, row)
    _compress(run, metric, watcher)
    if run.step % settings.checkpoint_every == 0:
        run.save_checkpoint()


def optimize(run: Run) -> float:
    """The step a user would write; the loss. `run.step` says which batch, and is left as it is."""
    inputs, targets = (t.to(run.device) for t in run.batches.batch(run.step))
    run.model.train()
    with torch.autocast(run.device.type, torch.bfloat16, enabled=run.config.train.precision == "bf16"):
        loss = F.cross_entropy(*predictions(run.model, inputs, targets))
    loss.backward()
    if run.config.train.grad_clip is not None:
        clip_grad_norm_(run.model.parameters(), run.config.train.grad_clip)
    run.optimizer.step()
    run.scheduler.step()
    run.optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def _log(run: Run) -> dict[str, float]:
    pending = run.pending
    row = {
        "step": run.step,
        "seconds": run.seconds,
        "train/loss": pending["loss"] / pending["steps"],
        "train/steps_per_second": pending["steps"] / pending["seconds"],
        **run.size_row,
    }
    run.metrics.append(row)
    run.pending.clear()
    return row


def _validate(run: Run) -> dict[str, float]:
    result = evaluate(run.model, run.data.valid)
    row = {"step": run.step, "seconds": run.seconds, **{f"eval/{k}": v for k, v in result.items()}, **run.size_row}
    run.metrics.append(row)
    if run.best is None or result["accuracy"] > run.best["accuracy"] or run.best["sizes"] != run.sizes:
        run.best = {"step": run.step, "accuracy": result["accuracy"], "sizes": run.sizes}
        run.save_model()
    return row


def _compress(run: Run, metric: float | None, watcher: Watcher) -> None:
    """Let the compressor act, and note what it did and saw."""
    compressor = run.compressor
    if compressor is None:
        return
    event = compressor.step(metric)
    run.seconds += event.seconds
    if event.kind in ("cut", "skipped"):
        _look(run, compressor, compressor.last_spectra, watcher)
    elif event.kind == "none" and run.looks.due(run.step, run.seconds):
        _look(run, compressor, None, watcher)
    if event.changed:
        run.step = run.step if event.resume_at is None else event.resume_at
        run.looked = compressor.spectra()
    if event.kind != "none":
        run.events.append(event.to_dict())
        watcher.happened(run, event)


def _look(run: Run, compressor: Compressor, seen: dict[str, Spectrum] | None, watcher: Watcher) -> None:
    """Keep the spectra, and how far they moved since the last look at layers of these sizes, if there is time for it.

    `seen` are the spectra if they are known already; they cost nothing then.
    """
    start = time.perf_counter()
    spectra = seen or spectra_of(
        compressor.layers, for_proposals=bool(run.looked), model=compressor.model, calibration=compressor.calibration
    )
    run.spectra.add(run.step, spectra)
    compared = run.looked and compressor.policy is not None and (seen is None or run.looks.affordable(run.seconds))
    if compared:
        assert compressor.policy is not None
        row = drift(run.looked, spectra, compressor.policy)
        run.metrics.append({"step": run.step, "seconds": run.seconds, **row})
    run.looked = {name: spectrum.light() for name, spectrum in spectra.items()}
    remark = run.looks.account(time.perf_counter() - start, run.step, run.seconds, bool(compared))
    if remark:
        event = Event(run.step, "noted", (), remark)
        run.events.append(event.to_dict())
        watcher.happened(run, event)
