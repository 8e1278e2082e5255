"""Questions about documents as they lie in files: rows of a table, SQuAD's JSON, bAbI's stories."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from datamodules._errors import DataFormatError
from datamodules._files import (
    TABLES,
    cell_of,
    checked_text,
    digest_of,
    find_any,
    lines_of,
    plain_suffix,
    table_rows,
    text_cell,
    text_of,
)

_NESTED: Final = ".json"
_STORIES: Final = ".txt"


@dataclass(frozen=True)
class Question:
    """One question about a document, with every answer that is right."""

    document: str
    question: str
    #: At least one; empty text where there is no answer.
    answers: tuple[str, ...]
    #: What it shares with the other questions about the same text.
    story: str
    #: Where it stands, for the reader of an error.
    where: str


@dataclass(frozen=True)
class Columns:
    """The columns of a table."""

    document: str
    question: str
    answers: str


@dataclass(frozen=True)
class QuestionFile:
    """The file of one split."""

    path: Path
    columns: Columns

    @property
    def paths(self) -> Sequence[Path]:
        """The file."""
        return (self.path,)

    def digest(self) -> str:
        """Return a digest of what it holds."""
        return digest_of(self.paths)

    def read(self) -> Iterator[Question]:
        """Yield all questions. Raise DataFormatError for the first thing that is wrong."""
        empty = True
        for each in self._questions():
            if not each.question.strip():
                raise DataFormatError(f"{each.where} holds an empty question")
            yield each
            empty = False
        if empty:
            raise DataFormatError(f"{self.path} holds no question")

    def _questions(self) -> Iterator[Question]:
        suffix = plain_suffix(self.path)
        if suffix == _STORIES:
            return _stories(self.path)
        return _nested(self.path) if suffix == _NESTED else _rows(self.path, self.columns)


def find_questions(
    folder: Path, split: str, columns: Columns, roots: Sequence[Path]
) -> QuestionFile:
    """Return the file of a split: a table before SQuAD's JSON before bAbI's lines.

    Raise DataMissingError where there is none, DataPathError where it leads out of the roots.
    """
    return QuestionFile(find_any(folder, split, (*TABLES, _NESTED, _STORIES), roots), columns)


def cut_stories(
    questions: Sequence[Question], share: float, seed: int
) -> tuple[list[Question], list[Question]]:
    """Return the questions to train on, and that share of them or more, cut off by whole stories.

    One story at least is trained on. Raise DataFormatError where there is no other.
    """
    of_story: dict[str, list[int]] = {}
    for row, each in enumerate(questions):
        of_story.setdefault(each.story, []).append(row)
    if len(of_story) == 1:
        raise DataFormatError(
            f"{questions[0].where}: all questions are about one document, so that none of them can"
            " be cut off for validation: give a file for val"
        )
    stories = sorted(of_story)
    cut: set[int] = set()
    for place in np.random.default_rng(seed).permutation(len(stories))[1:]:
        if len(cut) >= share * len(questions):
            break
        cut.update(of_story[stories[place]])
    parts: tuple[list[Question], list[Question]] = ([], [])
    for row, each in enumerate(questions):
        parts[row in cut].append(each)
    return parts


# --- rows of a table


def _rows(path: Path, columns: Columns) -> Iterator[Question]:
    for where, row in table_rows(path):
        document = text_cell(where, row, columns.document)
        question = text_cell(where, row, columns.question)
        cell = cell_of(where, row, columns.answers)
        answers = _answers(cell, f"{where}, column {columns.answers!r}")
        yield Question(document, question, answers, document, where)


def _answers(cell: object, where: str) -> tuple[str, ...]:
    """Return the answers in a cell: one text, a list of them, or SQuAD's {"text": [...]}."""
    if isinstance(cell, dict) and "text" in cell:
        cell = cell["text"]
    if isinstance(cell, list):
        answers = [checked_text(each, where) for each in cell]
        return tuple(dict.fromkeys(answers)) or ("",)
    return (checked_text(cell, where),)


# --- SQuAD: {"data": [{"paragraphs": [{"context": ..., "qas": [{"question": ..., ...}]}]}]}


def _nested(path: Path) -> Iterator[Question]:
    try:
        whole = json.loads(text_of(path))
    except (ValueError, RecursionError) as error:
        raise DataFormatError(f"{path} is not JSON: {error}") from error
    for article, where in _list(whole, "data", str(path)):
        for paragraph, here in _list(article, "paragraphs", where):
            document = text_cell(here, paragraph, "context")
            for asked, there in _list(paragraph, "qas", here):
                question = text_cell(there, asked, "question")
                given = [
                    text_cell(at, answer, "text") for answer, at in _list(asked, "answers", there)
                ]
                answers = tuple(dict.fromkeys(given)) or ("",)
                yield Question(document, question, answers, document, there)


def _list(owner: Any, key: str, where: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the objects in a list of an object, and where each stands."""
    inside = owner.get(key) if isinstance(owner, dict) else None
    if not isinstance(inside, list):
        raise DataFormatError(f"{where} is not as SQuAD's files are: it has no list {key!r}")
    for number, each in enumerate(inside, 1):
        there = f"{where}, {key} {number}"
        if not isinstance(each, dict):
            raise DataFormatError(f"{there} is not a JSON object")
        yield each, there


# --- bAbI: `1 a statement`, or `2 a question <TAB> answer <TAB> supporting lines`


def _stories(path: Path) -> Iterator[Question]:
    told: list[str] = []
    story = last = 0
    for row, line in enumerate(lines_of(path), 1):
        if not line.strip():
            continue
        where = f"{path}, line {row}"
        number, text = _numbered(line, where)
        if number == 1:
            told, story = [], story + 1
        elif number != last + 1:
            raise DataFormatError(
                f"{where} has number {number} after {last}: a story counts up, a new one begins"
                " with 1"
            )
        last = number
        if "\t" not in text:
            told.append(text.strip())
            continue
        question, answer, *_ = map(str.strip, text.split("\t"))
        if not answer:
            raise DataFormatError(f"{where} has a question without an answer behind its tab")
        yield Question(" ".join(told), question, (answer,), str(story), where)


def _numbered(line: str, where: str) -> tuple[int, str]:
    if not (found := re.fullmatch(r"([0-9]{1,9}) (.*)", line)):
        raise DataFormatError(
            f"{where} does not begin with its number in the story: `1 Mary moved to the bathroom.`,"
            " or `2 Where is Mary?<TAB>bathroom<TAB>1`"
        )
    return int(found[1]), found[2]
