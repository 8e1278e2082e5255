"""Train: from a spec to the best model's metrics."""

import gc
import math
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules._base import DataModule, Feed
from datamodules._content import training_digest
from datamodules._errors import DataError
from jobs.catalog import Catalog
from jobs.errors import SpecError
from jobs.spec import TrainerOptions, TrainSpec
from lightning_modules._base import Topology
from lightning_modules._carry import Carry
from lightning_modules._ranks import rank, world_size
from lightning_modules._recipe import Recipe
from worker.runner import catalog, precision
from worker.runner.build import build_data, build_model
from worker.runner.checkpoints import Checkpointer, Shelf
from worker.runner.gradients import GradientGuard
from worker.runner.lightning_setup import make_trainer, spare_threads
from worker.runner.metrics import MetricReporter, Plan
from worker.runner.ranks import first_rank_first
from worker.runner.reasons import NonFinite
from worker.runner.resume import Continuation, Position, Saved
from worker.runner.selection import Selection
from worker.runner.sets import refuse_endless, require_rows, require_sets
from worker.runner.task import Task


def train(task: Task, spec: TrainSpec) -> dict[str, Any]:
    """Train, and return the metrics of the best model with a few facts about it."""
    task.reporter.phase("preparing")
    topology = catalog.topologies().find(spec.model.name)
    kind = catalog.kinds_of_data().find(spec.data.name)
    here = Catalog({spec.model.name: topology.entry}, {spec.data.name: kind.entry})
    here.check(spec)
    options = here.trainer(spec)
    start = _saved(task, spec, options)
    # A warm start takes weights and vocabularies alone, and trains as if it began here.
    saved = None if start and _is_warm(start, spec) else start
    seed_everything(spec.seed)
    data = build_data(kind, spec.data)
    if start and saved is None:
        data.load_state_dict(dict(start.data))
    prepare(task, data, options, spec.seed, saved)
    for split in ("train", *data.validation_splits):
        require_rows(data, split)
    if saved:
        saved = _on_this_data(saved, spec, data)
    else:
        require_sets(task, spec, kind, data)
    data.plan_ahead(data.feed.start_epoch)  # while the model is made
    seed_everything(spec.seed)  # the first weights do not depend on how the data was prepared
    model = build_model(topology, spec.model, data.dims)
    for split in data.validation_splits:
        refuse_endless(model, data, split)
    if rank() > 0:
        seed_everything(spec.seed + rank())  # each rank draws masks of its own
    if start:
        load_weights(model, start)
    if spec.resources.threads is None:
        spare_threads(model)
    return _fit(task, spec, options, (model, data), saved)


def seed_everything(seed: int) -> None:
    """Seed every random number generator there is."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def prepare(
    task: Task, data: DataModule, options: TrainerOptions, seed: int, saved: Saved | None
) -> None:
    """Read the data, with the vocabularies of the checkpoint where there is one."""
    position = saved.position if saved else Position()
    data.feed = Feed(
        batch_tokens=options.batch_tokens,
        seed=seed,
        rank=rank(),
        world_size=world_size(),
        start_epoch=position.epoch,
        start_batch=position.batch,
    )
    if saved:
        data.load_state_dict(dict(saved.data))
    gc.freeze()  # what the imports made need not be looked through while rows are read
    with first_rank_first():
        data.prepare(task.workspace)


def load_weights(model: Topology, saved: Saved) -> None:
    """Load the checkpoint's weights. Raise SpecError where they are another model's."""
    try:
        model.load_state_dict(saved.weights)
    except RuntimeError as error:
        first = str(error).splitlines()[1:2] or [str(error)]
        raise SpecError(
            f"the checkpoint is of a model with other parameters: {first[0].strip()}"
        ) from None


def _is_warm(start: Saved, spec: TrainSpec) -> bool:
    return spec.warm_from is not None and start.spec != spec.to_dict()


def _saved(task: Task, spec: TrainSpec, options: TrainerOptions) -> Saved | None:
    """Read what to go on from: this job's own checkpoint, or another's."""
    if task.attempt.checkpoint is None:
        return None
    saved = Saved.read(Path(task.attempt.checkpoint))
    if saved.spec == spec.to_dict() or _is_warm(saved, spec):
        return saved
    return _of_another_job(saved, spec, options)


def _of_another_job(saved: Saved, spec: TrainSpec, options: TrainerOptions) -> Saved:
    """Leave behind what is that job's alone: its best model, and batches this one plans otherwise.

    Raise SpecError where this job has nothing left to train.
    """
    _refuse_if_nothing_is_left(saved.position, options)
    plan = (spec.data.to_dict(), spec.seed, options.batch_tokens)
    its_plan = (saved.spec["data"], saved.spec["seed"], saved.trainer["batch_tokens"])
    if plan != its_plan:
        return _at_epoch_start(saved)
    # In the middle of an epoch each stream goes on from its state.
    return replace(saved, memory={k: v for k, v in saved.memory.items() if k == Carry.__name__})


def _at_epoch_start(saved: Saved) -> Saved:
    return replace(saved, memory={}, position=replace(saved.position, batch=0))


def _on_this_data(saved: Saved, spec: TrainSpec, data: DataModule) -> Saved:
    """Return what to go on from on the data as it is: after a change, from the epoch's beginning.

    Raise DataError where it has changed under this very job: what it does is to follow from its
    spec, however often it is interrupted.
    """
    digests = {saved.data_digest, training_digest(data)}
    if len(digests) == 1 or "" in digests:
        return saved
    if saved.spec == spec.to_dict():
        raise DataError(
            f"the data has changed since the checkpoint of step {saved.position.step}: bring"
            " back the files as they were and retry, or submit a new job with resume_from to go on"
            " with what is there"
        )
    data.feed = replace(data.feed, start_batch=0)
    return _at_epoch_start(saved)


def _refuse_if_nothing_is_left(position: Position, options: TrainerOptions) -> None:
    if position.epoch >= options.last_epoch:
        raise SpecError(
            f"the checkpoint has {position.epoch} epochs behind it: to go on from it, set "
            f"trainer.max_epochs above that, not to {options.last_epoch}"
        )
    if options.max_steps is not None and position.step >= options.max_steps:
        raise SpecError(
            f"the checkpoint has {position.step} steps behind it: to go on from it, set "
            f"trainer.max_steps above that, not to {options.max_steps}"
        )


def _recipe(options: TrainerOptions, total_steps: int) -> Recipe:
    return Recipe(
        lr=options.lr,
        betas=(options.beta1, options.beta2),
        weight_decay=options.weight_decay,
        # A rise that never ends trains nothing: a small corpus has fewer steps than the recipe's.
        warmup_steps=min(options.warmup_steps, total_steps // 3),
        schedule=options.schedule,
        final_lr_fraction=options.final_lr_fraction,
        total_steps=total_steps,
    )


def _plan(data: DataModule, options: TrainerOptions) -> Plan:
    """Return how many steps the whole training has; epochs differ by a batch or two at most.

    Raise DataError where that is none.
    """
    if not (an_epoch := len(data.planned("train", 0))):
        raise DataError("an epoch of this data has no batch: there is nothing to train on")
    steps = min(an_epoch * options.max_epochs, options.max_steps or sys.maxsize)
    return Plan(steps, min(options.max_epochs, math.ceil(steps / an_epoch)))


def _fit(
    task: Task,
    spec: TrainSpec,
    options: TrainerOptions,
    parts: tuple[Topology, DataModule],
    saved: Saved | None,
) -> dict[str, Any]:
    model, data = parts
    plan = _plan(data, options)
    model.recipe = _recipe(options, plan.steps)
    digest = training_digest(data)
    constants = {"spec": spec.to_dict(), "trainer": options.to_dict(), "data_digest": digest}
    at = Continuation(saved, constants)
    guard = GradientGuard(options.clip)
    monitor, mode = data.monitor or (model.monitor, model.monitor_mode)
    selection = Selection(at, options, monitor, mode)
    trainer = make_trainer(
        task.folder.path,
        task.device,
        precision.choose(options.precision, task.device),
        [
            at,
            guard,
            MetricReporter(task.reporter, at, plan, options.log_every),
            selection,
            Checkpointer(
                Shelf(task.folder.checkpoints, task.reporter),
                spec.policy,
                task.commands,
                (at, guard, selection),
            ),
        ],
        max_epochs=options.last_epoch,
        check_val_every_n_epoch=options.val_every,
        reload_dataloaders_every_n_epochs=1,
    )
    if saved:
        selection.load_state_dict(saved.memory.get(Selection.__name__, selection.state_dict()))
    if not selection.finished:
        trainer.fit(model, datamodule=data)
    if selection.score is None:
        raise NonFinite(f"no validation gave a {monitor} that is a number: no model can be chosen")
    return {
        **selection.metrics,
        **selection.facts,
        **data.facts("train"),
        "data_digest": digest,
        "best_step": selection.step,
        "parameters": sum(each.numel() for each in model.parameters()),
    }
