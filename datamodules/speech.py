"""Recordings in WAV or FLAC files, of which it is known what is said: a label or a text."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, ClassVar, Final, Literal

from annotated_types import Ge, Gt, Interval

from datamodules._audio import read_head
from datamodules._base import Task, TextFamily, TextScoring, Workspace
from datamodules._cache import cached, key_of
from datamodules._errors import DataError
from datamodules._masking import Masking
from datamodules._mel import Listening
from datamodules._name_patterns import NamePattern, NameRule
from datamodules._paths import Folder, find_folder
from datamodules._recordings import (
    Classes,
    Layout,
    Manifests,
    Names,
    Recording,
    Spelling,
    cut_recordings,
    digest_recordings,
)
from datamodules._refusals import Refusal, misfit
from datamodules._speech import (
    Heard,
    Learned,
    SpeechSplit,
    from_prepared,
    not_too_long,
    to_prepared,
)
from datamodules._spoken import SpokenData
from datamodules._targets import LabelTargets, TargetName, TextTargets
from datamodules._values import Scaling
from datamodules._vocab import Normalisation, TextForm, Tokens, VocabularySize

#: Part of the cache's key: to be raised when the same files and settings give other arrays.
_VERSION: Final = 1
_log = logging.getLogger(__name__)

Share = Annotated[float, Interval(ge=0, lt=1)]


class Speech(SpokenData):
    """Recordings of speech with a label or a text each, as frames of log-mel energies.

    With `layout` manifests, a split is a table `root/{split}.jsonl`, `.tsv`, `.csv` or `.parquet`
    with a column for the path of each recording, below `root`, and one for its text or its label.
    With `layout` names, all recordings lie in `root` and their names hold their label, and by
    `val_where` and `test_where` the split they belong to. With `layout` classes, each folder
    `root/{label}` holds the recordings of a label. A split val or test that is not given so is cut
    off from training by chance: a share of each label.

    Recordings are WAV or FLAC files of one rate; several channels are averaged. Frames are scaled
    to mean 0 and deviation 1 of training. A label that only another split than training has counts
    as wrong; the result says how many rows have one (`unknown_labels`).

    A line of `predict` is the path of a recording, absolute or below a data root of the worker.

    Args:
        root: folder of the data, absolute or relative to a data root of the worker
        target: whether the model is to answer with the label of a recording or with a text
        layout: whether there is a manifest for each split, a name for each label or a folder
        path: column of a manifest with the path of the recording
        text: column of a manifest with the text
        label: column of a manifest with the label
        pattern: how names hold labels, suffix left out, such as {label}_{speaker}_{index}
        val_where: which names belong to val unless to test, as PART=VALUES, such as speaker=theo
        test_where: which names belong to test, as PART=VALUES, such as index=0-4
        spelled: the text of each label, as LABEL=TEXT, where labels are to be written as texts
        train: name of the training split
        val: name of the validation split
        test: name of the test split
        val_share: how much is cut off as val where that is not given; 0 for none
        test_share: how much is cut off as test where that is not given; 0 for none
        split_seed: what chooses the recordings that are cut off
        rate: samples a second that all recordings have; that of the first if not given
        window: length of a frame in milliseconds
        hop: from the beginning of a frame to that of the next, in milliseconds
        mels: bands of a frame
        centred: whether the mean of each band over the recording is taken off
        deltas: whether a frame also holds the slopes of its bands, and the slopes of these
        stack: frames that are put side by side as one, so that sequences are shorter
        mask_bands: share of the bands that is hidden in training, at most, others each epoch
        mask_frames: share of the frames that is hidden in training, at most, others each epoch
        max_seconds: training recordings that are longer are left out
        lowercase: whether texts are lower-cased, and scored so
        normalise: the Unicode normalisation of texts
        tokens: what a symbol of a text is; words are what stands between blanks
        vocabulary_size: symbols at most, special ones counted; characters are all kept

    """

    families: ClassVar[tuple[TextFamily, ...] | str | None] = ("cer", "wer")
    gives: ClassVar[frozenset[Task]] = frozenset({("frames", "label"), ("frames", "tokens")})
    tasks_by: ClassVar[tuple[str, Mapping[str, frozenset[Task]]]] = (
        "target",
        {"label": frozenset({("frames", "label")}), "text": frozenset({("frames", "tokens")})},
    )

    refusals: ClassVar[tuple[Refusal, ...]] = tuple(
        Refusal(
            when={"layout": ("manifests", "classes")},
            unless={parameter: ("",)},
            because=f"{parameter} reads the names of recordings: set layout to names, or leave it"
            " out",
        )
        for parameter in ("pattern", "val_where", "test_where")
    )

    def __init__(  # noqa: PLR0913 - the signature is the schema
        self,
        *,
        root: str,
        target: TargetName = "label",
        layout: Literal["manifests", "names", "classes"] = "manifests",
        path: str = "path",
        text: str = "text",
        label: str = "label",
        pattern: str = "",
        val_where: str = "",
        test_where: str = "",
        spelled: list[str] | None = None,
        train: str = "train",
        val: str = "val",
        test: str = "test",
        val_share: Share = 0.1,
        test_share: Share = 0.1,
        split_seed: Annotated[int, Ge(0)] = 0,
        rate: Annotated[int, Ge(100)] | None = None,
        window: Annotated[float, Gt(0)] = 25.0,
        hop: Annotated[float, Gt(0)] = 10.0,
        mels: Annotated[int, Ge(1)] = 40,
        centred: bool = True,
        deltas: bool = False,
        stack: Annotated[int, Ge(1)] = 2,
        mask_bands: Share = 0.0,
        mask_frames: Share = 0.0,
        max_seconds: Annotated[float, Gt(0)] = 30.0,
        lowercase: bool = False,
        normalise: Normalisation = "none",
        tokens: Tokens = "characters",
        vocabulary_size: VocabularySize = 6000,
    ) -> None:
        super().__init__()
        rules = {"test": test_where, "val": val_where}  # who fits both is kept for test
        named = {"pattern": pattern, **{f"{split}_where": rule for split, rule in rules.items()}}
        if why := misfit(self.refusals, {"layout": layout, **named}):
            raise DataError(why)
        if val_share + test_share >= 1:
            raise DataError("'val_share' and 'test_share' leave nothing to train on: lower them")
        self._root = root
        self._target: TargetName = target
        self._spelling = Spelling(spelled or ())
        labelled = target == "label" or bool(spelled)
        self._layout = _layout(layout, pattern, rules, (path, label if labelled else text))
        self._by_label = labelled or layout != "manifests"
        self._names = {"train": train, "val": val, "test": test}
        self._shares = {"val": val_share, "test": test_share}
        self._split_seed = split_seed
        self._rate = rate
        self._listening = partial(
            Listening,
            window=window,
            hop=hop,
            mels=mels,
            centred=centred,
            deltas=deltas,
            stack=stack,
        )
        if rate:  # what does not go with it is refused before anything is read
            self._listening(rate)
        self.masking = Masking(mask_bands, mask_frames)
        self._max_seconds = max_seconds
        self._text = TextForm(lowercase=lowercase, normalise=normalise), tokens, vocabulary_size
        if target == "text":
            self.scoring = TextScoring(lowercase=lowercase, metrics=("cer", "wer"))
            self.monitor = self.scoring.monitor

    # --- preparing

    def prepare(self, workspace: Workspace) -> None:
        """Find, check, cut and listen to all recordings, or take their frames from the cache.

        With a loaded state nothing is learned, and any split may be missing until it is used.
        """
        self._workspace, self.roots = workspace, workspace.roots
        found = self._find(workspace)
        listening = (
            self._learned.listening if self._learned else self._listening(self._rate_of(found))
        )
        digests = {split: digest_recordings(rows) for split, rows in found.items()}
        settings = {
            "version": _VERSION,
            "recordings": digests,
            "spelled": list(self._spelling.entries),
            "listening": listening.state(),
            "max_seconds": self._max_seconds,
        }
        self._origins = {split: [each, settings["spelled"]] for split, each in digests.items()}
        build = partial(self._heard, found, listening)
        heard = from_prepared(
            cached(workspace.cache / "speech", key_of(settings), lambda: to_prepared(build()))
        )
        self._learned = self._learned or self._learn(heard["train"], listening)
        targets = self._learned.targets
        self._splits = {split: SpeechSplit.of(each, targets) for split, each in heard.items()}
        self._leave_out()
        self._give_up_empty({split: rows[0].where for split, rows in found.items()})

    def _find(self, workspace: Workspace) -> dict[str, list[Recording]]:
        folder = Folder(find_folder(self._root, workspace.roots), self._root, workspace.roots)
        found, absent = self._layout.find(folder, self._names)
        cut = {split: share for split, share in self._shares.items() if split not in found}
        if "train" in found and any(cut.values()):
            shares = {split: share for split, share in cut.items() if share}
            found |= cut_recordings(
                found["train"], shares, self._split_seed, by_label=self._by_label
            )
        self._absent = {split: why for split, why in absent.items() if split not in found}
        for split in () if self._learned else ("train", "val"):
            if split not in found:
                raise self._absent.get(split) or DataError(
                    "there is no val: raise 'val_share' above 0"
                )
        return found

    def _rate_of(self, found: Mapping[str, Sequence[Recording]]) -> int:
        first = found["train"][0]
        return self._rate or read_head(first.path, first.where).rate

    def _heard(
        self, found: Mapping[str, Sequence[Recording]], listening: Listening
    ) -> dict[str, Heard]:
        heard = {}
        for split, recordings in found.items():
            kept = not_too_long(recordings, self._max_seconds) if split == "train" else recordings
            left_out = len(recordings) - len(kept)
            heard[split] = replace(Heard.of(kept, listening, self._spelling), too_long=left_out)
        return heard

    def _learn(self, heard: Heard, listening: Listening) -> Learned:
        scaling = Scaling.of(heard.frames.values)
        if self._target == "label":
            return Learned(listening, scaling, LabelTargets.learn(heard.examples))
        return Learned(listening, scaling, TextTargets.learn(heard.said, *self._text))

    def _leave_out(self) -> None:
        if "train" in self._splits:
            train = self._splits["train"]
            self.left_out = {"too_long": train.heard.too_long, "unknown_label": train.unknown}
            self._splits["train"] = train.learnable()
        for reason, count in self.left_out.items():
            if count:
                _log.warning(
                    "recordings left out of training: %d %s", count, reason.replace("_", " ")
                )
        for split, each in self._splits.items():
            if each.unknown:
                _log.warning(
                    "%d rows of %s have a label that training does not have", each.unknown, split
                )


def _layout(name: str, pattern: str, rules: Mapping[str, str], columns: tuple[str, str]) -> Layout:
    if name == "manifests":
        return Manifests(*columns)
    if name == "classes":
        return Classes()
    named = NamePattern(pattern)
    given = {split: rule for split, rule in rules.items() if rule}
    return Names(
        named,
        {split: NameRule(rule, named.names, f"{split}_where") for split, rule in given.items()},
    )
