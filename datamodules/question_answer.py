"""A document, a question about it, and the answer."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

from annotated_types import Ge, Interval

from datamodules._base import TextFamily, Workspace
from datamodules._encoded import Reader, TextRows, Vocabularies
from datamodules._questions import Columns, Question, QuestionFile, cut_stories, find_questions
from datamodules._text_files import Files, Learning, TextFiles
from datamodules._vocab import Normalisation, TextForm, Tokens, VocabularySize

#: Between document and question, in a line of text and as a symbol of its own: neither has it.
_BETWEEN: Final = "\t"

#: Signs at the end of a word, and at its head.
_BEHIND = re.compile(r"(?<=\w)([^\w\s]+)(?=\s|$)")
_BEFORE = re.compile(r"(?<!\S)([^\w\s]+)(?=\w)")


class QuestionAnswer(TextFiles):
    """Questions about documents, each with one or more answers.

    A split is a table `root/{split}.jsonl`, `.tsv`, `.csv` or `.parquet` with a row a question,
    SQuAD's own `root/{split}.json`, or bAbI's own `root/{split}.txt`, where a question's document
    is its story up to there; each of them gzip or not. A val that has no file is cut off from
    training by whole documents or stories. Training learns the first answer, scores take the best.

    A model reads one sequence: the document, a symbol between them (a tab), the question; or the
    question first. Runs of blanks are one blank. Where words are the symbols, signs at the ends of
    a word of document or question are words of their own. A line to predict from is JSON with
    `context` and `question`, or document and question with a tab between them; without a tab it is
    a question about nothing.

    Args:
        root: folder of the data, absolute or relative to a data root of the worker; or a data set
            of the Hugging Face hub: `hf://owner/name`, `hf://owner/name/config`
        context: column of the document in a table
        question: column of the question in a table
        answers: column of the answers in a table: one text, a list, or an object with a list `text`
        train: name of the training split
        val: name of the validation split
        test: name of the test split; it may be missing while a model is trained
        val_share: how much of training is cut off as val where that has no file; 0 for none
        split_seed: what chooses the documents that are cut off
        question_place: whether the question stands after the document or before it
        document_length: symbols of a document that are kept; all if not given
        document_part: whether its first or its last symbols are kept then
        lowercase: whether all text is lower-cased
        normalise: the Unicode normalisation of all text
        tokens: what a symbol is; words are what stands between blanks
        vocabulary_size: symbols at most, special ones counted; characters are all kept
        shared_vocabulary: whether documents and answers have one vocabulary
        max_length: training rows with more symbols on a side are left out
        chosen_by: what models are chosen by; the loss is finer where val has few questions

    """

    families: ClassVar[tuple[TextFamily, ...] | str | None] = ("answer",)

    def __init__(  # noqa: PLR0913 - the signature is the schema
        self,
        *,
        root: str,
        context: str = "context",
        question: str = "question",
        answers: str = "answers",
        train: str = "train",
        val: str = "val",
        test: str = "test",
        val_share: Annotated[float, Interval(ge=0, lt=1)] = 0.1,
        split_seed: Annotated[int, Ge(0)] = 0,
        question_place: Literal["last", "first"] = "last",
        document_length: Annotated[int, Ge(1)] | None = None,
        document_part: Literal["first", "last"] = "first",
        lowercase: bool = False,
        normalise: Normalisation = "none",
        tokens: Tokens = "words",
        vocabulary_size: VocabularySize = 6000,
        shared_vocabulary: bool = True,
        max_length: Annotated[int, Ge(1)] = 512,
        chosen_by: Literal["answer_f1", "loss"] = "answer_f1",
    ) -> None:
        names = {"train": train, "val": val, "test": test}
        learning = Learning(tokens, vocabulary_size, shared_vocabulary, max_length)
        super().__init__(root, names, TextForm(lowercase=lowercase, normalise=normalise), learning)
        self._columns = Columns(context, question, answers)
        self._val_share = val_share
        self._split_seed = split_seed
        self._question_place = question_place
        self._document_length = document_length
        self._document_part = document_part
        self.scoring = replace(self.scoring, metrics=("answer",))
        self.monitor = self.scoring.monitor if chosen_by == "answer_f1" else ("val/loss", "min")

    # --- the rows

    def _settings(self) -> Mapping[str, Any]:
        columns = self._columns
        return {
            "columns": [columns.document, columns.question, columns.answers],
            "cut_off": [self._val_share, self._split_seed],
            "layout": [self._question_place, self._document_length, self._document_part],
        }

    def _needed(self) -> Sequence[str]:
        return ("train",) if self._val_share else ("train", "val")

    def _find_split(self, folder: Path, name: str, roots: Sequence[Path]) -> QuestionFile:
        return find_questions(folder, name, self._columns, roots)

    def _find(self, workspace: Workspace) -> dict[str, Files]:
        found = super()._find(workspace)
        if self._cuts(found):
            del self._absent["val"]
        return found

    def _cuts(self, found: Mapping[str, object]) -> bool:
        """Say whether val is cut off from training."""
        return bool(self._val_share) and "train" in found and "val" not in found

    def _texts(
        self, files: Mapping[str, QuestionFile]
    ) -> tuple[dict[str, TextRows], dict[str, int]]:
        read: dict[str, Iterable[Question]] = {split: file.read() for split, file in files.items()}
        if self._cuts(files):  # where to cut is known once all are read
            read["train"], read["val"] = cut_stories(
                list(read["train"]), self._val_share, self._split_seed
            )
        return {split: self._formed(questions) for split, questions in read.items()}, {}

    def _formed(self, questions: Iterable[Question]) -> TextRows:
        return TextRows.of(
            (self._joined(each.document, each.question), list(map(self._form, each.answers)))
            for each in questions
        )

    # --- what is read

    def _source(self, line: str) -> str:
        return self._joined(*_parted(line))

    def _joined(self, document: str, question: str) -> str:
        return _BETWEEN.join(" ".join(self._form(each).split()) for each in (document, question))

    def _taught(self, texts: TextRows) -> tuple[Iterable[str], Iterable[str]]:
        """Return documents, questions and the symbol between them as texts of their own."""
        parts = (part for source in texts.sources for part in (*source.split(_BETWEEN), _BETWEEN))
        return map(self._apart, parts), chain.from_iterable(texts.references)

    def _reader(self, vocabularies: Vocabularies) -> Reader:
        encode = vocabularies.source.encode
        (between,) = encode([_BETWEEN])

        def read(sources: Sequence[str]) -> list[list[int]]:
            documents, questions = (
                encode(list(map(self._apart, texts)))
                for texts in zip(*(source.split(_BETWEEN) for source in sources), strict=True)
            )
            return [
                [*question, *between, *self._kept(document)]
                if self._question_place == "first"
                else [*self._kept(document), *between, *question]
                for document, question in zip(documents, questions, strict=True)
            ]

        return read

    def _apart(self, text: str) -> str:
        """Return the text with the signs at the ends of words as words of their own."""
        if self._learning.tokens != "words":
            return text
        return _BEFORE.sub(r"\1 ", _BEHIND.sub(r" \1", text))

    def _kept(self, document: list[int]) -> list[int]:
        if self._document_length is None:
            return document
        length = self._document_length
        return document[:length] if self._document_part == "first" else document[-length:]


def _parted(line: str) -> tuple[str, str]:
    """Return document and question of a line to predict from."""
    if line.lstrip().startswith("{"):
        try:
            row = json.loads(line)
            return str(row["context"]), str(row["question"])
        except (ValueError, KeyError, RecursionError):
            pass  # a text that merely begins with a brace
    document, _, question = line.rpartition(_BETWEEN)
    return document, question
