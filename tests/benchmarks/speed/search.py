"""Searching with the attention model: sentences a second, greedy and with a beam of five."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import torch

from datamodules._batch import Batch
from datamodules._vocab import EOS, SPECIALS
from lightning_modules._decoding import Search
from lightning_modules.attention_encoder_decoder import AttentionEncoderDecoder
from tests.benchmarks.speed._measure import Row, in_turn

#: As Multi30k: symbols of an input, of an output and of the vocabulary, units, inputs.
LENGTH, VOCABULARY, UNITS, SENTENCES = 15, 6000, 256, 400
#: Sentences that are searched at once; of an evaluation they are about as many as the second.
BATCHES: Final = (80, 400)


def rows() -> Iterator[Row]:
    """Measure in both types of products, with small batches and with large ones."""
    torch.manual_seed(1)
    model = AttentionEncoderDecoder(
        hidden_size=UNITS, source_vocabulary_size=VOCABULARY, target_vocabulary_size=VOCABULARY
    )
    for dtype in (torch.float32, torch.bfloat16):
        for at_once in BATCHES:
            with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
                yield _compare(model, at_once, str(dtype).removeprefix("torch."))


def _compare(model: AttentionEncoderDecoder, at_once: int, dtype: str) -> Row:
    batches = [_batch(at_once) for _ in range(SENTENCES // at_once)]
    # Weights without training never end an output: each is as long as it may be.
    greedy = Search(max_length=LENGTH - 1)

    def search(how: Search) -> None:
        for batch in batches:
            model.generate(batch, how)

    pairs = in_turn(
        lambda: search(replace(greedy, beam=5)), lambda: search(greedy), repeats=5, warmup=1
    )
    return Row(
        name=f"search with a beam of 5, {dtype}",
        size=f"{at_once} at once",
        figure=SENTENCES / pairs.our_median,
        unit="sentences/s",
        against=SENTENCES / pairs.their_median,
        against_name="greedy",
        ratio=1 / pairs.speedup,
        goal="greedy <= 3 times as fast",
    )


def _batch(size: int) -> Batch:
    inputs = torch.randint(SPECIALS, VOCABULARY, (size, LENGTH))
    inputs[:, -1] = EOS
    return Batch(inputs, torch.full((size,), LENGTH))
