"""Lines of one language beside their translations, or any other text that turns into text."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

from annotated_types import Ge

from datamodules._base import TextFamily
from datamodules._encoded import Pair, Reader, TextRows, Vocabularies
from datamodules._pairs import PairFiles, find_pairs
from datamodules._text_files import Learning, TextFiles
from datamodules._vocab import Normalisation, TextForm, Tokens, VocabularySize

#: A list, because that is what a spec can hold.
_METRICS: Final[list[TextFamily]] = ["bleu", "chrf"]


class ParallelText(TextFiles):
    """Line-aligned files, or tables with a column for each side.

    A split is the two files `root/{split}.{source}` and `root/{split}.{target}`, or else one table
    `root/{split}.tsv`, `.csv`, `.jsonl` or `.parquet` with columns of these names; each of them
    gzip or not. Where a table can hold lists (JSONL, Parquet), a source may be a list of sentences,
    which are joined by blanks, and a target a list of references, all of which scores use. Pairs
    with an empty side and over-long ones are left out of training and counted (`left_out`); the
    other splits are kept whole, so that scores are comparable. A test split may be missing until it
    is asked for.

    Args:
        root: folder of the data, absolute or relative to a data root of the worker; or a data set
            of the Hugging Face hub: `hf://owner/name`, `hf://owner/name/config`
        source: language suffix or column of the text that goes in
        target: language suffix or column of the text that is to come out
        train: name of the training split
        val: name of the validation split
        test: name of the test split; it may be missing while a model is trained
        same_source: whether rows of one source stay rows or become one row with several references
        learn: whether training reads the first reference of a row, or is given a row for each
        lowercase: whether all text is lower-cased, and scored so
        normalise: the Unicode normalisation of all text
        tokens: what a symbol is; words are what stands between blanks
        vocabulary_size: symbols at most, special ones counted; characters are all kept
        shared_vocabulary: whether source and target have one vocabulary
        max_source_length: symbols of a source that are read, the rest is cut off; all if not given
        max_length: training pairs with more symbols on a side are left out
        metrics: scores of what is written, models being chosen by the first; none: no search
        bleu_tokens: how sacrebleu is to cut the target text into words

    """

    families: ClassVar[tuple[TextFamily, ...] | str | None] = "metrics"

    def __init__(  # noqa: PLR0913 - the signature is the schema
        self,
        *,
        root: str,
        source: str,
        target: str,
        train: str = "train",
        val: str = "val",
        test: str = "test",
        same_source: Literal["rows", "references"] = "rows",
        learn: Literal["first", "each"] = "first",
        lowercase: bool = False,
        normalise: Normalisation = "none",
        tokens: Tokens = "subwords",
        vocabulary_size: VocabularySize = 6000,
        shared_vocabulary: bool = True,
        max_source_length: Annotated[int, Ge(1)] | None = None,
        max_length: Annotated[int, Ge(1)] = 256,
        metrics: list[TextFamily] = _METRICS,
        bleu_tokens: Literal["13a", "intl", "zh", "char", "none"] = "13a",
    ) -> None:
        names = {"train": train, "val": val, "test": test}
        learning = Learning(tokens, vocabulary_size, shared_vocabulary, max_length)
        super().__init__(root, names, TextForm(lowercase=lowercase, normalise=normalise), learning)
        self._columns = source, target
        self._same_source = same_source
        self._learn = learn
        self._max_source_length = max_source_length
        self.scoring = replace(self.scoring, tokenize=bleu_tokens, metrics=tuple(metrics))
        self.monitor = self.scoring.monitor

    def _settings(self) -> Mapping[str, Any]:
        return {
            "columns": self._columns,
            "references": [self._same_source, self._learn],
            "max_source_length": self._max_source_length,
        }

    def place(self, split: str, row: int) -> str:
        """Return the files, and which line or row of them it is."""
        paths = self._files[split].paths
        # Rows of one source may have become one, and lines of a table are not all rows.
        what = "line" if len(paths) == 2 and self._same_source == "rows" else "row"
        return f"{' and '.join(map(str, paths))}, {what} {row + 1}"

    def _find_split(self, folder: Path, name: str, roots: Sequence[Path]) -> PairFiles:
        return find_pairs(folder, name, self._columns, roots)

    def _texts(self, files: Mapping[str, PairFiles]) -> tuple[dict[str, TextRows], dict[str, int]]:
        pairs = {split: self._formed(each.read()) for split, each in files.items()}
        left_out = {"empty": 0}
        if "train" in pairs:
            train = _one_by_one(pairs["train"]) if self._learn == "each" else pairs["train"]
            pairs["train"] = _without_empty(train, left_out)
        return {split: TextRows.of(each) for split, each in pairs.items()}, left_out

    def _formed(self, pairs: Iterable[Pair]) -> Iterable[Pair]:
        form = self._form
        formed = ((form(source), list(map(form, choices))) for source, choices in pairs)
        return _grouped(formed) if self._same_source == "references" else formed

    def _reader(self, vocabularies: Vocabularies) -> Reader:
        encode, longest = vocabularies.source.encode, self._max_source_length
        if longest is None:
            return encode
        return lambda lines: [ids[:longest] for ids in encode(lines)]


def _grouped(pairs: Iterable[Pair]) -> Iterator[Pair]:
    """Return each source once, in the order of the first, with all its references, each once."""
    found: dict[str, dict[str, None]] = {}
    for source, choices in pairs:
        found.setdefault(source, {}).update(dict.fromkeys(choices))
    return ((source, list(choices)) for source, choices in found.items())


def _one_by_one(pairs: Iterable[Pair]) -> Iterator[Pair]:
    """Return a row for each reference."""
    return ((source, [each]) for source, choices in pairs for each in choices)


def _without_empty(pairs: Iterable[Pair], left_out: dict[str, int]) -> Iterator[Pair]:
    """Yield the rows both of whose sides hold more than blanks, and count the others."""
    for source, choices in pairs:
        if source.strip() and choices[0].strip():
            yield source, choices
        else:
            left_out["empty"] += 1
