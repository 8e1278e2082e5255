"""Predict: run a trained model on lines of text."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import torch

from datamodules._base import Answer, LineData, TextData
from datamodules._batch import Batch
from datamodules._errors import DataError
from jobs.errors import SpecError
from jobs.files import PREDICTIONS_FILE, attention_files
from jobs.spec import MAX_CARRIED_BYTES, PredictSpec
from lightning_modules._base import Topology
from lightning_modules._decoding import Hypothesis
from lightning_modules._text import writes_text
from worker.events import ProgressEvent
from worker.folder import write_atomically
from worker.runner.evaluate import set_search
from worker.runner.picture import draw_attention
from worker.runner.sets import LONGEST
from worker.runner.task import Task
from worker.runner.trained import load

#: Symbols or frames (`line_length`), padding counted, times the beam, that are searched at once.
_AT_ONCE: Final = 50_000


def predict(task: Task, spec: PredictSpec) -> dict[str, Any]:
    """Write `files/predictions.json`, and where asked the attention of each line's best output."""
    task.reporter.phase("preparing")
    model, data, autocast = load(task)
    ask(model, spec)
    width = widen(model, data)
    task.reporter.phase("predicting")
    found: list[Any] = [None] * len(spec.lines)
    done = 0
    lengths = [data.line_length(line) for line in spec.lines]
    if writes_text(model):
        _refuse_endless(data, spec, lengths)
    for rows in batches_by_length(lengths, _AT_ONCE // width):
        with autocast, torch.no_grad():
            batch = _encode(data, spec, rows).to(task.device)
            for row, output in zip(rows, model.predict(batch), strict=True):
                found[row] = output
        done += len(rows)
        task.reporter.progress(ProgressEvent(done, len(spec.lines), 0, 0))
    answers = [
        data.answers(output, line, spec.search.n_best)
        for output, line in zip(found, spec.lines, strict=True)
    ]
    write_predictions(task, answers)
    if spec.attention and isinstance(data, TextData):
        files = task.folder.files
        for row, line in enumerate(spec.lines):
            best = data.rerank(found[row], line)[0]
            numbers, picture = attention_files(spec.first + row)
            attention = _attention(data, line, best)
            write_atomically(files / numbers, _json(attention), durable=False)
            write_atomically(files / picture, draw_attention(**attention), durable=False)
    return {"lines": len(spec.lines)}


def _refuse_endless(data: LineData, spec: PredictSpec, lengths: Sequence[int]) -> None:
    for row, length in enumerate(lengths):
        # Of a long line little may be read: the numbers of one vector, the head of a document.
        if length > LONGEST and (read := int(_encode(data, spec, [row]).lengths)) > LONGEST:
            raise DataError(
                f"line {spec.first + row + 1} has {read:,} symbols, more than {LONGEST:,}: put a "
                "line end after each text"
            )


def widen(model: Topology, data: LineData) -> int:
    """Let a search find as many as the data chooses from; return how many it follows at once."""
    if not writes_text(model):
        return 1
    if isinstance(data, TextData):
        model.search = model.search.at_least(data.candidates)
    return max(model.search.beam, model.search.n_best)


def _encode(data: LineData, spec: PredictSpec, rows: Sequence[int]) -> Batch:
    """Return the batch of some of the lines, each with its number among all that were given.

    By that number a line's samples are drawn, whatever other lines it is batched with. Raise
    DataError for a line that this kind of data cannot read, with that number.
    """
    try:
        batch = data.encode([spec.lines[row] for row in rows])
    except DataError:
        for row in rows:
            _refuse_unreadable(data, spec.lines[row], spec.first + row + 1)
        raise
    numbers = torch.tensor([spec.first + row for row in rows])
    return replace(batch, extras={**batch.extras, "index": numbers})


def _refuse_unreadable(data: LineData, line: str, number: int) -> None:
    try:
        data.encode([line])
    except DataError as error:
        raise DataError(f"line {number}: {error}") from None


def ask(model: Topology, spec: PredictSpec) -> None:
    """Tell the model what is asked of it. Raise SpecError where it cannot give that."""
    if writes_text(model):
        set_search(model, spec.search)
        model.search = replace(model.search, attention=spec.attention)
        return
    if spec.attention:
        raise SpecError(f"{type(model).__name__} writes no text: it has no attention to show")
    # Without a search the n best are just the n most likely, whatever the beam they come with.
    count = spec.search.n_best
    beam = 1 if count > 1 and not spec.search.sample else spec.search.beam
    set_search(model, replace(spec.search, n_best=1, beam=beam))


def batches_by_length(lengths: Sequence[int], at_once: int) -> Iterator[list[int]]:
    """Yield row numbers, each once, rows of like length together; padded, at most `at_once`.

    A row that is longer by itself is a batch by itself.
    """
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * (lengths[row] + 1) > at_once:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def write_predictions(task: Task, found: Sequence[Sequence[Answer]]) -> None:
    """Write the answers to each line to where a client looks for them.

    Raise SpecError where they are too long to be carried there, with the files that lie there.
    """
    files = task.folder.files
    files.mkdir(exist_ok=True)
    room = MAX_CARRIED_BYTES - sum(each.stat().st_size for each in files.iterdir())
    content = _json(predictions(found))
    if len(content) > room:
        raise SpecError(
            f"the answers take {len(content):,} bytes, and at most {room:,} can be carried: ask for"
            " fewer, or for shorter ones"
        )
    write_atomically(files / PREDICTIONS_FILE, content, durable=False)


def predictions(found: Sequence[Sequence[Answer]]) -> dict[str, Any]:
    """Return the n best answers to each line, with their scores."""
    return {"lines": [[_plain(each) for each in answers] for answers in found]}


def _plain(answer: Answer) -> dict[str, Any]:
    values = {"values": dict(answer.values)} if answer.values else {}
    return {"text": answer.text, "score": answer.score, **values}


def _attention(data: TextData, line: str, best: Hypothesis) -> dict[str, Any]:
    if best.attention is None:
        raise SpecError("this topology has no attention to keep")
    return {
        "source": data.source_symbols(line),
        "target": data.target_symbols(best.ids),
        "weights": best.attention.tolist(),
    }


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode()
