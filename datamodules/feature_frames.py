"""Sequences of feature frames: video, sensors, music, ready-made features of speech."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Final, Literal

from annotated_types import Ge, Interval

from datamodules._base import Task, TextFamily, TextScoring, Workspace
from datamodules._cache import cached, key_of
from datamodules._errors import DataError, DataFormatError, DataMissingError
from datamodules._files import digest_of
from datamodules._frame_answers import READERS, TargetName
from datamodules._frame_data import FrameData
from datamodules._frame_files import Row, manifest_rows
from datamodules._frame_streams import FrameStreams
from datamodules._frame_targets import (
    AnyOf,
    FrameTargets,
    Measured,
    NextFrame,
    OneEach,
    OneOf,
    Written,
)
from datamodules._framed import Framed, FrameSplit, Learned, from_prepared, is_binary, to_prepared
from datamodules._labelled import Example, cut_off
from datamodules._paths import Folder, find_folder
from datamodules._targets import LabelTargets, TextTargets
from datamodules._values import Scaling
from datamodules._vocab import Normalisation, TextForm, Tokens, VocabularySize

#: Part of the cache's key: to be raised when the same files and settings give other arrays.
_VERSION: Final = 2
#: Windows of splits that are only read: no gradient is kept, so they are at least so long.
_READING_WINDOW: Final = 256
_log = logging.getLogger(__name__)

Share = Annotated[float, Interval(ge=0, lt=1)]
Scale = Literal["auto", "standard", "none"]

_TASKS: Final[Mapping[TargetName, Task]] = {
    **{name: ("frames", name) for name in ("label", "value", "tags", "labels", "values", "next")},
    "text": ("frames", "tokens"),
}


class FeatureFrames(FrameData):
    """Sequences of frames in .npy or .npz files, and what is said of each or of each of its frames.

    A split is a manifest `root/{split}.jsonl` (or .jsonl.gz), an object for each sequence: `path`,
    below `root`, of a table with a row for each frame and a column for each feature, and by
    `target`

        label   `label`: one of several, a text or a whole number
        value   `value`: a number, or a list of as many for each sequence
        tags    `labels`: a list with one label for each frame
        labels  `labels`: a list with a list of labels for each frame: none, one or several
        values  `values`: a list with a number, or a list of numbers, for each frame
        text    `text`: what is to be written
        next    nothing: what follows each frame is to be told

    In place of the list for each frame may stand the path of a .npy file: of whole numbers, of a
    table of 0 and 1 with a column for each label, or of values. A split val or test that has no
    manifest is cut off from training by chance: a share of each label, where there is one.

    A label that only another split than training has counts as wrong; the result says how many
    sequences have one (`unknown_labels`). A line of `predict` is the path of a file of frames,
    absolute or below a data root of the worker.

    Args:
        root: folder of the data, absolute or relative to a data root of the worker
        target: what the model is to say
        scale: whether features and values are scaled to mean 0 and deviation 1 of training; auto
            does so unless all features that training has are 0 or 1
        bptt: frames of a window where the target is next; the gradient reaches no further back,
            the hidden state does
        max_length: training sequences with more frames are left out, unless the target is next
        train: name of the training split
        val: name of the validation split
        test: name of the test split
        val_share: how much is cut off as val where that has no manifest; 0 for none
        test_share: how much is cut off as test where that has no manifest; 0 for none
        split_seed: what chooses the sequences that are cut off
        lowercase: whether texts are lower-cased, and scored so
        normalise: the Unicode normalisation of texts
        tokens: what a symbol of a text is; words are what stands between blanks
        vocabulary_size: symbols at most, special ones counted; characters are all kept

    """

    families: ClassVar[tuple[TextFamily, ...] | str | None] = ("cer", "wer")
    gives: ClassVar[frozenset[Task]] = frozenset(_TASKS.values())
    tasks_by: ClassVar[tuple[str, Mapping[str, frozenset[Task]]]] = (
        "target",
        {target: frozenset({task}) for target, task in _TASKS.items()},
    )

    def __init__(  # noqa: PLR0913 - the signature is the schema
        self,
        *,
        root: str,
        target: TargetName = "label",
        scale: Scale = "auto",
        bptt: Annotated[int, Ge(1)] = 100,
        max_length: Annotated[int, Ge(1)] = 5000,
        train: str = "train",
        val: str = "val",
        test: str = "test",
        val_share: Share = 0.1,
        test_share: Share = 0.1,
        split_seed: Annotated[int, Ge(0)] = 0,
        lowercase: bool = False,
        normalise: Normalisation = "none",
        tokens: Tokens = "characters",
        vocabulary_size: VocabularySize = 6000,
    ) -> None:
        super().__init__()
        if val_share + test_share >= 1:
            raise DataError("'val_share' and 'test_share' leave nothing to train on: lower them")
        self._root = root
        self._target: TargetName = target
        self._scale: Scale = scale
        self._bptt = bptt
        self._max_length = max_length
        self._names = {"train": train, "val": val, "test": test}
        self._shares = {"val": val_share, "test": test_share}
        self._split_seed = split_seed
        self._text = TextForm(lowercase=lowercase, normalise=normalise), tokens, vocabulary_size
        if target == "text":
            self.scoring = TextScoring(lowercase=lowercase, metrics=("cer", "wer"))
            self.monitor = self.scoring.monitor

    def prepare(self, workspace: Workspace) -> None:
        """Find, check and cut all sequences, or take them from the cache.

        With a loaded state nothing is learned, and any split may be missing until it is used.
        """
        self._workspace, self.roots = workspace, workspace.roots
        folder = Folder(find_folder(self._root, workspace.roots), self._root, workspace.roots)
        found = self._find(folder)
        digests = {split: self._digest(rows, folder) for split, rows in found.items()}
        settings = {"version": _VERSION, "target": self._target, "rows": digests}
        self._origins = {split: [self._target, each] for split, each in digests.items()}
        build = partial(self._read, found, folder)
        kept = cached(workspace.cache / "frames", key_of(settings), lambda: to_prepared(build()))
        framed = from_prepared(kept)
        self._learned = self._learned or self._learn(framed["train"])
        self._keep(framed, self._learned)
        self._give_up_empty({split: rows[0].where for split, rows in found.items()})

    def _find(self, folder: Folder) -> dict[str, list[Row]]:
        """Return the rows of every split, those that have no manifest cut off."""
        found: dict[str, list[Row]] = {}
        self._absent = {}
        for split, name in self._names.items():
            try:
                found[split] = manifest_rows(folder, name)
            except DataMissingError as error:
                self._absent[split] = error
        shares = {split: share for split, share in self._shares.items() if split not in found}
        if "train" in found and any(shares.values()):
            shares = {split: share for split, share in shares.items() if share}
            found |= self._cut(found["train"], shares, folder)
        self._absent = {split: why for split, why in self._absent.items() if split not in found}
        for split in () if self._learned else ("train", "val"):
            if split in self._absent:
                raise self._absent[split]
        return found

    def _cut(
        self, rows: Sequence[Row], shares: Mapping[str, float], folder: Folder
    ) -> dict[str, list[Row]]:
        if len(rows) <= len(shares):
            raise DataFormatError(
                f"{rows[0].where}: {len(rows)} sequences are too few to cut {' and '.join(shares)}"
                " off: give these manifests of their own"
            )
        label_of = READERS["label" if self._target == "label" else "next"]
        # A file of which several rows tell stays together with all of them.
        of: defaultdict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in rows:
            of[row.name, label_of(row, folder, 0) or ""].append(row)
        examples = [Example(*key, told[0].where) for key, told in of.items()]
        return {
            split: [row for each in chosen for row in of[each.text, each.label]]
            for split, chosen in cut_off(examples, shares, self._split_seed).items()
        }

    def _digest(self, rows: Sequence[Row], folder: Folder) -> list[Any]:
        """Return what changes when a sequence changes, or what is said of one."""
        cells = [(row.cells.get(name), row) for row in rows for name in ("labels", "values")]
        others = [folder.file(each, row.where) for each, row in cells if isinstance(each, str)]
        return [
            digest_of([*(row.path for row in rows), *others]),
            [[row.name, dict(row.cells)] for row in rows],
        ]

    def _read(self, found: Mapping[str, Sequence[Row]], folder: Folder) -> dict[str, Framed]:
        features = len(self._learned.scaling.mean) if self._learned else None
        framed: dict[str, Framed] = {}
        for split in sorted(found, key=list(self._names).index):  # training says how wide
            framed[split] = Framed.read(found[split], folder, self._target, features)
            features = framed[split].frames.values.shape[1]
        return framed

    # --- learning

    def _learn(self, train: Framed) -> Learned:
        frames = train.frames.values
        binary = is_binary(frames)
        scaled = self._scale == "standard" or (self._scale == "auto" and not binary)
        scaling = Scaling.of(frames) if scaled else _as_it_is(frames.shape[1])
        return Learned(scaling, self._targets(train, scaling, binary=binary and not scaled))

    def _targets(self, train: Framed, scaling: Scaling, *, binary: bool) -> FrameTargets:
        said = train.answers()
        match self._target:
            case "label":
                pairs = zip(train.names, said, strict=True)
                examples = [Example(name, label, name) for name, label in pairs]
                return OneOf(LabelTargets.learn(examples))
            case "text":
                return Written(TextTargets.learn(said, *self._text))
            case "tags":
                return OneEach.learn(said)
            case "labels":
                return AnyOf.learn(said)
            case "next":
                return NextFrame(scaling, binary)
        values = train.said.values
        scaling = _as_it_is(values.shape[1]) if self._scale == "none" else Scaling.of(values)
        return Measured(scaling, each=self._target == "values")

    def _keep(self, framed: Mapping[str, Framed], learned: Learned) -> None:
        """Take over all splits, without what cannot be trained on."""
        self._splits = {s: FrameSplit.of(each, learned) for s, each in framed.items()}
        if "train" in self._splits:
            self._splits["train"] = self._learnable(self._splits["train"])
        for split, each in self._splits.items():
            if count := int((each.unknown > 0).sum()):
                _log.warning("%d rows of %s have labels that training does not have", count, split)
        self._streams = {}
        if isinstance(learned.targets, NextFrame):
            self._streams = {
                split: FrameStreams(each.framed.frames, self._window(split), learned.scaling)
                for split, each in self._splits.items()
            }

    def _window(self, split: str) -> int:
        return self._bptt if split == "train" else max(self._bptt, _READING_WINDOW)

    def _learnable(self, train: FrameSplit) -> FrameSplit:
        known = (train.unknown == 0) | (self._target == "labels")
        long = train.framed.frames.lengths > self._max_length
        long &= self._target != "next"
        self.left_out = {"too_long": int(long.sum()), "unknown_label": int((~known & ~long).sum())}
        for reason, count in self.left_out.items():
            if count:
                _log.warning(
                    "sequences left out of training: %d %s", count, reason.replace("_", " ")
                )
        if long.all():
            raise DataFormatError(
                f"{train.framed.names[0]} and all other sequences to train on have more than"
                f" {self._max_length} frames ('max_length')"
            )
        return train.where(known & ~long)


def _as_it_is(features: int) -> Scaling:
    return Scaling((0.0,) * features, (1.0,) * features)
