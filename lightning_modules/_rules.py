"""What may follow a prefix: the rules a search keeps, whatever a model finds probable.

Nothing here asks the device for an answer, so that no step of a search waits for it.

Shapes: B sentences, k prefixes of each, V symbols, L symbols written so far.
"""

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from datamodules._vocab import BOS, EOS, PAD

#: Symbols that are never written: they stand around sequences, not inside.
NEVER: Final = (PAD, BOS)


def forbid(
    candidates: Tensor,
    written: Tensor,
    limits: Sequence[int],
    *,
    min_length: int,
    no_repeat_ngram: int,
) -> None:
    """Make -inf of candidates (B, k, V), in place, what may not follow prefixes (B, k, L).

    Where nothing else is left the end may come early: no prefix is without a continuation. At the
    longest allowed output, `limits` of the B sentences, nothing else may come.
    """
    at = written.shape[-1]
    for symbol in NEVER:
        candidates[..., symbol] = -math.inf
    if 0 < no_repeat_ngram <= at:
        _forbid_repeats(candidates, written, no_repeat_ngram)
    if at < min_length:
        end = candidates[..., EOS].clone()
        candidates[..., EOS] = -math.inf
        stuck = candidates.amax(dim=-1) == -math.inf
        candidates[..., EOS] = torch.where(stuck, end, -math.inf)
    last = [row for row, limit in enumerate(limits) if limit == at + 1]
    if last:
        end = candidates[last, :, EOS]
        candidates[last] = -math.inf
        candidates[last, :, EOS] = end


def _forbid_repeats(candidates: Tensor, written: Tensor, size: int) -> None:
    # Paulus, Xiong & Socher 2018, section 2.5: no n-gram stands twice in an output.
    grams = written.unfold(-1, size, 1)  # (B, k, L - size + 1, size)
    newest = written[..., written.shape[-1] - size + 1 :]  # (B, k, size - 1)
    again = (grams[..., :-1] == newest[..., None, :]).all(dim=-1)
    ban = candidates.new_zeros(again.shape).masked_fill_(again, -math.inf)
    candidates.scatter_add_(-1, grams[..., -1], ban)
