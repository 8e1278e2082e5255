"""What every kind of data is: read once, batched by a pure plan, kept with the model it taught.

A public file of this folder holds one public subclass of `DataModule`; the class's `__init__`
signature is its schema, and the contract tests pick it up.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Protocol, TypeVar

from lightning import LightningDataModule
from torch import Tensor

from datamodules._ahead import Ahead
from datamodules._batch import Batch
from datamodules._bucketing import Sizes, evaluation_plan, training_plan
from datamodules._refusals import Refusal

#: What goes in and what comes out, e.g. ("tokens", "tokens"). Words in use, and how a batch holds
#: them, for inputs
#:
#:     tokens  symbols, int64 (B, S)               vector  one float32 vector, (B, 1, F)
#:     frames  float32 vectors, (B, S, F)          label   one class, int64 (B, 1)
#:
#: and for targets
#:
#:     tokens  symbols and the end symbol, int64 (B, T)
#:     label   one class, int64 (B,)
#:     value   the next T steps of V values, float32 (B, T, V); T is the same for all rows
#:     tags    a class for each input, int64 (B, S)
#:     labels  for each input which of K classes it has, 0 or 1, float32 (B, S, K)
#:     values  values for each input, float32 (B, S, V)
#:     next    the input that follows each input: int64 (B, S), or float32 (B, S, F)
Task = tuple[str, str]

#: The batches of one epoch: each a list of row numbers of the split.
Plan = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Workspace:
    """Say where on this machine data may be read and where prepared data may be kept."""

    #: Folders that data may be read from, in the order in which a relative path is looked for.
    roots: tuple[Path, ...]
    #: Folder of prepared data, keyed by content and settings; shared by all jobs of the home.
    cache: Path


@dataclass(frozen=True)
class Feed:
    """Say how batches are drawn; the runner sets it before the fit."""

    #: Rows x the longest sequence on either side of one global batch: the symbols of its longer
    #: side, padding counted. Splits that are only evaluated use larger batches.
    batch_tokens: int
    #: Seed of the order.
    seed: int
    #: This process and how many there are: ranks take interleaved shares of each planned batch.
    rank: int = 0
    world_size: int = 1
    #: Where the training loader of `start_epoch` begins; later epochs begin at batch 0.
    start_epoch: int = 0
    start_batch: int = 0


class DataModule(LightningDataModule, ABC):
    """Read one kind of data and give it as batches."""

    #: Every task this kind of data can feed.
    gives: ClassVar[frozenset[Task]]
    #: Where that is not all one: the parameter that decides, and what each of its values gives.
    tasks_by: ClassVar[tuple[str, Mapping[str, frozenset[Task]]] | None] = None
    #: Trainer options that this kind of data sets otherwise than the general default.
    trainer_defaults: ClassVar[Mapping[str, Any]] = {}
    #: Parameters that do not go together; the catalogue refuses them before a job is queued.
    refusals: ClassVar[tuple[Refusal, ...]] = ()
    #: Every split that it may have: others are refused before a job is queued. Nothing: any.
    splits: ClassVar[tuple[str, ...]] = ()
    #: Splits that every validation scores; the first is the one models are chosen by.
    validation_splits: tuple[str, ...] = ("val",)
    #: The metric by which models of this data are chosen and which end of it is good, where that is
    #: not the topology's.
    monitor: tuple[str, Literal["min", "max"]] | None = None

    feed: Feed
    _ahead: Ahead[Plan] | None = None

    @abstractmethod
    def prepare(self, workspace: Workspace) -> None:
        """Read, check, tokenise and cache all splits. Raise `DataError` for what is wrong."""

    @property
    @abstractmethod
    def dims(self) -> dict[str, int | bool]:
        """Return the values of the `FromData` parameters of topologies, by name."""

    @abstractmethod
    def sizes(self, split: str) -> Sizes:
        """Return the lengths of every row of a split on each side, int64 (N, K)."""

    def lengths(self, split: str) -> Sequence[int]:
        """Return how long the input of each row is: words where it is text, else steps."""
        return [int(each) for each in self.sizes(split)[:, 0]]

    def place(self, split: str, row: int) -> str:
        """Return where a row stands, for the reader of an error: file and line, where known."""
        return f"row {row + 1} of {split!r}"

    def row_labels(self, split: str) -> Sequence[str]:  # noqa: ARG002 (for those that have some)
        """Return the right class of each row by its name; nothing where rows have none."""
        return ()

    @abstractmethod
    def collate(self, split: str, rows: Sequence[int]) -> Batch:
        """Return the padded batch of these rows."""

    def altered(self, batch: Batch, epoch: int) -> Batch:  # noqa: ARG002 (for those that alter some)
        """Return a batch of training changed by chance: a pure function of (feed, epoch, rows)."""
        return batch

    @property
    def reads_on(self) -> bool:
        """Whether a batch goes on where the one before it ended (`_stream.py`)."""
        return False

    def facts(self, split: str) -> dict[str, int]:  # noqa: ARG002 (for those that have some)
        """Return what the reader of a split's scores should know of it; part of the result."""
        return {}

    def origin(self, split: str) -> Any:  # noqa: ARG002 (for those that can say)
        """Return plain JSON that is another once what a split was made of is, or None.

        That is digests of files, and the parameters by which they are read.
        """
        return None

    def content(self, split: str) -> Iterator[Any]:
        """Yield plain JSON that is another once what is asked or what is right of a split is.

        Nothing, where this kind of data cannot say.
        """
        if (origin := self.origin(split)) is not None:
            yield origin

    def plan(self, split: str, epoch: int) -> Plan:
        """Return the batches of an epoch, a pure function of (feed, split, epoch)."""
        if split == "train":
            return training_plan(self.sizes(split), self.feed.batch_tokens, self.feed.seed, epoch)
        return evaluation_plan(self.sizes(split), self.feed.batch_tokens)

    def plan_ahead(self, epoch: int) -> None:
        """Begin to plan an epoch of training in the background; `planned` then has it at once."""
        self._ahead = Ahead((self.feed, epoch), lambda: self.plan("train", epoch))

    def planned(self, split: str, epoch: int) -> Plan:
        """Return `plan(split, epoch)`, which may have been made ahead."""
        if self._ahead and (split, self._ahead.key) == ("train", (self.feed, epoch)):
            return self._ahead.result()
        return self.plan(split, epoch)

    def train_dataloader(self) -> "BatchLoader":
        """Return the batches of the epoch the trainer is in, from where `feed` says.

        The trainer must ask anew each epoch (`reload_dataloaders_every_n_epochs=1`).
        """
        epoch = self.trainer.current_epoch if self.trainer else self.feed.start_epoch
        start = self.feed.start_batch if epoch == self.feed.start_epoch else 0
        loader = BatchLoader(self, "train", epoch, start, alter=True)
        if not self.trainer or epoch + 1 != self.trainer.max_epochs:
            self.plan_ahead(epoch + 1)  # while these are trained on
        return loader

    def val_dataloader(self) -> "list[BatchLoader]":
        """Return the batches of each of `validation_splits`, in their order."""
        return [BatchLoader(self, split, 0) for split in self.validation_splits]

    def test_dataloader(self) -> "BatchLoader":
        """Return the batches of the test split."""
        return BatchLoader(self, "test", 0)


@dataclass(frozen=True)
class Answer:
    """What a model says to one line, in the form in which a person reads it."""

    #: What stands on the output line.
    text: str
    #: Of text: log-probability, length-normalised. Of a label or tags: probability.
    score: float
    #: The same as plain JSON by name ("label", "tags", ...); shown instead of `text` where a
    #: program reads. Empty where the text is all there is.
    values: Mapping[str, Any] = field(default_factory=dict)


class LineData(DataModule):
    """A kind of data whose inputs can be given as lines: its models can be used by `predict`."""

    #: Folders that lines may lead to which are paths; the runner sets it before `encode`.
    roots: tuple[Path, ...] = ()

    def line_length(self, line: str) -> int:
        """Return about how long the input of a line is: those of like length are run together."""
        return len(line)

    @abstractmethod
    def encode(self, lines: Sequence[str]) -> Batch:
        """Return one batch of inputs without targets, its `index` the position in `lines`.

        Needs `load_state_dict`, not `prepare`: prediction has only the checkpoint.
        """

    @abstractmethod
    def answers(self, output: Any, line: str, count: int) -> list[Answer]:
        """Return at most `count` answers to a line, the best first, at least one.

        `output` is the line's part of what the topology's `predict` returned.
        """


class StreamData(LineData):
    """A kind of data that can be read as a stream: a model of it writes on, from a line or none."""

    @abstractmethod
    def continued(self, prompt: Batch, written: Tensor, score: float) -> Answer:
        """Return what `Topology.write_on` wrote after the one row of a prompt, as `encode` gave it.

        Values that are called `frames` are one list for each frame.
        """


class Written(Protocol):
    """What a search found: symbols with a score."""

    @property
    def ids(self) -> Sequence[int]:
        """The symbols."""

    @property
    def score(self) -> float:
        """How good they are."""


#: What a search found, of whatever class.
W = TypeVar("W", bound=Written)


#: A family of scores of text: sacrebleu's BLEU, chrF and TER (0-100); ROUGE-1, -2 and -L, word and
#: character error rate, SQuAD's exact match and F1 of answers (0-1).
TextFamily = Literal["bleu", "chrf", "ter", "rouge", "wer", "cer", "answer"]

#: The metrics of each family.
FAMILY_METRICS: Final[Mapping[TextFamily, tuple[str, ...]]] = {
    **{family: (family,) for family in ("bleu", "chrf", "ter", "wer", "cer")},
    "rouge": ("rouge1", "rouge2", "rougeL"),
    "answer": ("answer_f1", "answer_exact"),
}

#: Of some metrics, two numbers for each row: the one counts what is found in the other.
Counts = Mapping[str, Sequence[tuple[float, float]]]

#: A metric by its full name, and which end of it is good.
Monitor = tuple[str, Literal["min", "max"]]

#: Of each family, the metric that models are chosen by.
_CHOSEN_BY: Final[Mapping[TextFamily, Monitor]] = {
    "bleu": ("val/bleu", "max"),
    "chrf": ("val/chrf", "max"),
    "ter": ("val/ter", "min"),
    "rouge": ("val/rouge1", "max"),
    "wer": ("val/wer", "min"),
    "cer": ("val/cer", "min"),
    "answer": ("val/answer_f1", "max"),
}


@dataclass(frozen=True)
class TextScoring:
    """Say how this kind of data's target text is scored."""

    #: sacrebleu's tokenizer: "13a", "char", "intl", "zh", "none", ...
    tokenize: str = "13a"
    #: Whether case is ignored (sacrebleu's `lc`); TER, ROUGE and answers ignore it always.
    lowercase: bool = False
    #: The scores to compute, exact match always among them. None at all saves the search.
    metrics: tuple[TextFamily, ...] = ("bleu", "chrf")

    @property
    def monitor(self) -> Monitor:
        """The metric that models are best chosen by: that of the first family, else the loss."""
        return _CHOSEN_BY[self.metrics[0]] if self.metrics else ("val/loss", "min")


class TextData(LineData):
    """A kind of data whose target is text: it can go from ids back to text, and score it."""

    scoring: TextScoring = TextScoring()
    #: What `scoring.metrics` is where text is the target, or the parameter that lists it: the
    #: catalogue tells by it which metrics there are. None where it is not said.
    families: ClassVar[tuple[TextFamily, ...] | str | None] = None
    #: Names of what `own_scores` may return.
    own_metrics: ClassVar[tuple[str, ...]] = ()
    #: Outputs that a search writes for each input at least, so that `rerank` has a choice.
    candidates: int = 1

    def rerank(self, found: Sequence[W], line: str) -> Sequence[W]:  # noqa: ARG002 (for those that know better)
        """Return the outputs found for an input line, best first; they come so by their score."""
        return found

    def text_of(self, ids: Sequence[int], line: str) -> str:  # noqa: ARG002 (for those that need it)
        """Return the text of an output as a person reads it, who gave this line."""
        return self.detokenise(ids)

    def own_scores(self, best: Mapping[int, Sequence[int]], split: str) -> Counts:  # noqa: ARG002 (for those that have some)
        """Return further scores of the best output of each row of a split, by name.

        That is two numbers for each row of `best`: the score is the sum of the first over that of
        the second.
        """
        return {}

    def lengths(self, split: str) -> Sequence[int]:
        """Return the words of each input, by its blanks: the same whatever the vocabulary."""
        return [len(each.split()) for each in self.sources(split)]

    def content(self, split: str) -> Iterator[Any]:
        """Yield what each row asks, and the texts that are right."""
        rows = zip(self.sources(split), self.references(split), strict=True)
        yield from ([source, list(choices)] for source, choices in rows)

    def answers(self, output: Sequence[Written], line: str, count: int) -> list[Answer]:
        """Return the n best texts of a search; for a line that says nothing, nothing."""
        if not line.strip():
            return [Answer("", 0.0)]
        found = self.rerank(output, line)[:count]
        return [Answer(self.text_of(each.ids, line), each.score) for each in found]

    @abstractmethod
    def detokenise(self, ids: Sequence[int]) -> str:
        """Return the target text of these ids; everything from the end symbol on is left out."""

    @abstractmethod
    def source_symbols(self, line: str) -> list[str]:
        """Return the printable symbols of an input, one for each of its positions."""

    @abstractmethod
    def target_symbols(self, ids: Sequence[int]) -> list[str]:
        """Return the printable symbols of an output, one for each id, the end symbol included."""

    @abstractmethod
    def sources(self, split: str) -> Sequence[str]:
        """Return the input text of every row."""

    @abstractmethod
    def references(self, split: str) -> Sequence[Sequence[str]]:
        """Return the reference texts of every row, at least one each."""


class BatchLoader:
    """Iterate over a plan from batch `start`; nothing is counted here or in a sampler.

    To learn from, each rank gets its share of every batch. To be evaluated, it gets whole batches,
    so that each is what it is for one process, to the last digit; but of streams a share of each,
    at the same places, since a stream stays where its state is. Either way all ranks take the same
    number of steps: who is left over gets a row that counts for nothing (`Batch.idle`).
    """

    def __init__(
        self, data: DataModule, split: str, epoch: int, start: int = 0, *, alter: bool = False
    ) -> None:
        self.data, self.split, self.epoch, self.start = data, split, epoch, start
        self._alter = alter
        self.plan = data.planned(split, epoch)
        if not 0 <= start <= len(self.plan):
            raise ValueError(f"epoch {epoch} has {len(self.plan)} batches and no batch {start}")

    def __len__(self) -> int:
        left = len(self.plan) - self.start
        return left if self._by_rows else math.ceil(left / self.data.feed.world_size)

    def __iter__(self) -> Iterator[Batch]:
        for step in range(len(self)):
            yield self._batch(self._share(step))

    @property
    def _by_rows(self) -> bool:
        """Whether ranks share the rows of each batch, and not the batches."""
        return self.split == "train" or self.data.reads_on

    def _share(self, step: int) -> Sequence[int]:
        feed = self.data.feed
        if self._by_rows:
            return self.plan[self.start + step][feed.rank :: feed.world_size]
        place = self.start + step * feed.world_size + feed.rank
        return self.plan[place] if place < len(self.plan) else ()

    def _batch(self, share: Sequence[int]) -> Batch:
        batch = self.data.collate(self.split, share or self.plan[0][:1])
        if self._alter:
            batch = self.data.altered(batch, self.epoch)
        return batch if share else batch.idle()
