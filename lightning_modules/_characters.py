"""A word read by its characters, so that spelling tells of words that training did not have.

Shapes: M words, L characters of the longest, E width of a character's embedding, D width of what is
returned.
"""

from typing import Final, Literal

import torch
from torch import Tensor, nn

from datamodules._vocab import PAD
from lightning_modules._cells import CellName
from lightning_modules._layers import Layers

CharacterReader = Literal["convolution", "recurrent"]

#: How many neighbouring characters a convolution sees (Ma & Hovy 2016, table 1).
_WINDOW: Final = 3


class _Spelling(nn.Module):
    """Embed characters; PAD is all zeros and stays so."""

    def __init__(self, symbols: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, width, padding_idx=PAD)
        nn.init.uniform_(self.embedding.weight, -((3 / width) ** 0.5), (3 / width) ** 0.5)
        nn.init.zeros_(self.embedding.weight.detach()[PAD])


class CharacterConvolution(_Spelling):
    """x = max_l (W [c_{l-1}; c_l; c_{l+1}] + b), the maximum unit by unit.

    Ma & Hovy 2016, "End-to-end sequence labeling via bi-directional LSTM-CNNs-CRF", section 2.1.
    """

    def __init__(self, symbols: int, width: int, size: int) -> None:
        super().__init__(symbols, width)
        self.output_size = size
        self.convolution = nn.Conv1d(width, size, _WINDOW, padding=_WINDOW // 2, bias=False)
        self.bias = nn.Parameter(torch.zeros(size))
        nn.init.xavier_uniform_(self.convolution.weight)

    def forward(self, characters: Tensor) -> Tensor:
        """Return what the characters (M, L) of each word say, (M, D); zeros where it has none."""
        embedded = self.embedding(characters).transpose(1, 2)  # (M, E, L)
        seen = self.convolution(embedded)  # (M, D, L)
        inside = (characters != PAD)[:, None]
        highest: Tensor = seen.masked_fill(~inside, float("-inf")).amax(dim=-1) + self.bias
        return highest.masked_fill(~inside.any(dim=-1), 0.0)


class CharacterRNN(_Spelling):
    """x = [→h_L; ←h_1], what each direction knows at its end.

    Lample et al. 2016, "Neural architectures for named entity recognition", section 4.1.
    """

    def __init__(self, symbols: int, width: int, size: int, cell: CellName) -> None:
        super().__init__(symbols, width)
        self.reader = Layers(cell, width, size, bidirectional=True)
        self.output_size = self.reader.output_size

    def forward(self, characters: Tensor) -> Tensor:
        """Return what the characters (M, L) of each word say, (M, D)."""
        lengths = (characters != PAD).sum(dim=-1).clamp(min=1)  # one that has none is read as PAD
        _, last = self.reader(self.embedding(characters), lengths)
        return self.reader.top(last)
