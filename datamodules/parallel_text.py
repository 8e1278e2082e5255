"""Lines of one language beside their translations, or any other text that turns into text."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge

from datamodules._pairs import PairFiles, Pairs, find_pairs
from datamodules._text_files import Learning, TextFiles, Texts
from datamodules._vocab import Normalisation, TextForm, Tokens


class ParallelText(TextFiles):
    """Line-aligned files, or tables with a column for each side.

    A split is the two files `root/{split}.{source}` and `root/{split}.{target}`, or else one table
    `root/{split}.tsv`, `.csv`, `.jsonl` or `.parquet` with columns of these names; each of them
    gzip or not. Pairs with an empty side and over-long ones are left out of training and counted
    (`left_out`); the other splits are kept whole, so that scores are comparable. A test split may
    be missing until it is asked for.

    Args:
        root: folder of the data, absolute or relative to a data root of the worker
        source: language suffix or column of the text that goes in
        target: language suffix or column of the text that is to come out
        train: name of the training split
        val: name of the validation split
        test: name of the test split; it may be missing while a model is trained
        lowercase: whether all text is lower-cased, and scored so
        normalise: the Unicode normalisation of all text
        tokens: what a symbol is; words are what stands between blanks
        vocabulary_size: symbols at most, special ones counted; characters are all kept
        shared_vocabulary: whether source and target have one vocabulary
        max_length: training pairs with more symbols on a side are left out
        bleu_tokens: how sacrebleu is to cut the target text into words

    """

    def __init__(  # noqa: PLR0913 - the signature is the schema
        self,
        *,
        root: str,
        source: str,
        target: str,
        train: str = "train",
        val: str = "val",
        test: str = "test",
        lowercase: bool = False,
        normalise: Normalisation = "none",
        tokens: Tokens = "subwords",
        vocabulary_size: Annotated[int, Ge(300)] = 6000,
        shared_vocabulary: bool = True,
        max_length: Annotated[int, Ge(1)] = 256,
        bleu_tokens: Literal["13a", "intl", "zh", "char", "none"] = "13a",
    ) -> None:
        names = {"train": train, "val": val, "test": test}
        learning = Learning(tokens, vocabulary_size, shared_vocabulary, max_length)
        super().__init__(root, names, TextForm(lowercase=lowercase, normalise=normalise), learning)
        self._columns = source, target
        self.scoring = replace(self.scoring, tokenize=bleu_tokens)

    def _settings(self) -> Mapping[str, Any]:
        return {"columns": self._columns}

    def _find_split(self, folder: Path, name: str, roots: Sequence[Path]) -> PairFiles:
        return find_pairs(folder, name, self._columns, roots)

    def _texts(self, files: Mapping[str, PairFiles]) -> tuple[dict[str, Texts], dict[str, int]]:
        pairs = {split: self._formed(each.read()) for split, each in files.items()}
        left_out = {"empty": 0}
        if "train" in pairs:
            pairs["train"], left_out["empty"] = _without_empty(pairs["train"])
        texts = {
            split: Texts(sources, [[each] for each in targets])
            for split, (sources, targets) in pairs.items()
        }
        return texts, left_out

    def _formed(self, pairs: Pairs) -> Pairs:
        sources, targets = pairs
        return list(map(self._form, sources)), list(map(self._form, targets))


def _without_empty(pairs: Pairs) -> tuple[Pairs, int]:
    """Return the pairs both of whose sides hold more than blanks, and how many do not."""
    kept = [pair for pair in zip(*pairs, strict=True) if all(map(str.strip, pair))]
    sources, targets = [source for source, _ in kept], [target for _, target in kept]
    return (sources, targets), len(pairs[0]) - len(kept)
