"""Evaluate: score a trained model on one split."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from datamodules._base import DataModule, TextData
from jobs.errors import SpecError
from jobs.spec import Component, EvaluateSpec, SearchOptions, TrainerOptions
from lightning_modules._base import Topology
from lightning_modules._evaluation import EvaluatedTopology
from lightning_modules._ranks import rank
from lightning_modules._sampling import Sampling
from lightning_modules._scoring import one_line
from lightning_modules._text import writes_text
from worker.folder import write_atomically
from worker.runner import catalog, precision
from worker.runner.build import build_data, rebuild_model
from worker.runner.evaluated import NOTED_ROWS, Scored, checkpoint_digest, pinned_digest, row_of
from worker.runner.lightning_setup import make_trainer
from worker.runner.metrics import EvaluationProgress, logged_metrics, scoring_facts
from worker.runner.sets import refuse_endless
from worker.runner.task import Task
from worker.runner.train import load_weights, prepare
from worker.runner.trained import trained_spec


def evaluate(task: Task, spec: EvaluateSpec) -> dict[str, Any]:
    """Return the scores on the split; its output goes to `files/`, beside input and truth."""
    task.reporter.phase("preparing")
    saved = task.read_checkpoint()
    trained = trained_spec(task.attempt, saved)
    kind = catalog.kinds_of_data().find(trained.data.name)
    options = TrainerOptions.from_dict(saved.trainer)
    data = build_data(kind, Component(trained.data.name, {**trained.data.params, **spec.data}))
    prepare(task, data, options, trained.seed, saved)
    digest = pinned_digest(data, spec)
    topology = catalog.topologies().find(trained.model.name)
    model = rebuild_model(topology, saved.hyper_parameters)
    load_weights(model, saved)
    set_search(model, spec.search)
    refuse_endless(model, data, spec.split)
    if isinstance(model, EvaluatedTopology):
        model.notes_rows = len(data.sizes(spec.split)) <= NOTED_ROWS
    trainer = make_trainer(
        task.folder.path,
        task.device,
        precision.choose(options.precision, task.device),
        [EvaluationProgress(task.reporter)],
    )
    task.reporter.phase("evaluating")
    if spec.split == "test":
        trainer.test(model, datamodule=data, verbose=False)
    else:
        data.validation_splits = (spec.split,)
        trainer.validate(model, datamodule=data, verbose=False)
    metrics = logged_metrics(trainer)
    task.reporter.metrics(metrics, step=saved.position.step, epoch=saved.position.epochs_begun)
    if rank() == 0:
        _write_text(task.folder.files, model, data, spec.split)
    return {
        **metrics,
        **scoring_facts(model),
        **data.facts(spec.split),
        **row_of(Scored(model, data, spec.split), spec, digest, task.folder.files),
        "job": spec.job,
        **({"version": spec.version} if spec.version else {}),
        "checkpoint": checkpoint_digest(task.attempt.checkpoint),
        "data": trained.data.to_dict(),
        "step": saved.position.step,
    }


def set_search(model: Topology, search: SearchOptions) -> None:
    """Tell the model how to search. Raise SpecError if it writes no text but a search was asked."""
    if writes_text(model):
        model.search = replace(
            model.search,
            beam=search.beam,
            length_normalisation=search.length_normalisation,
            n_best=search.n_best,
            min_length=search.min_length,
            max_length=search.max_length,
            no_repeat_ngram=search.no_repeat_ngram,
            coverage_penalty=search.coverage_penalty,
            sampling=_sampling(search),
        )
    elif search != SearchOptions():
        raise SpecError(f"{type(model).__name__} writes no text: leave out [search]")


def _sampling(search: SearchOptions) -> Sampling | None:
    if not search.sample:
        return None
    return Sampling(search.temperature, search.top_k or 0, search.top_p, search.seed)


def _write_text(folder: Path, model: Topology, data: DataModule, split: str) -> None:
    """Write inputs, outputs and first references, one a line, as sacrebleu's command reads them."""
    if not writes_text(model) or split not in model.outputs:
        return
    texts = {"hypotheses": model.outputs[split].hypotheses}
    if isinstance(data, TextData):
        texts["sources"] = tuple(data.sources(split))
        texts["references"] = tuple(choices[0] for choices in data.references(split))
    for name, rows in texts.items():
        lines = [one_line(row) + "\n" for row in rows]
        write_atomically(folder / f"{name}.txt", "".join(lines).encode())
