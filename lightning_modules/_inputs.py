"""What a recurrent network reads at each step: the embedding of a symbol, or a map of a frame.

Shapes: B sequences, S steps, F features of a frame, E width of what is returned.
"""

import torch
from torch import Tensor, nn

from datamodules._batch import Batch
from datamodules._vocab import UNK
from lightning_modules._dropout import Dropout, LockedDropout
from lightning_modules._errors import ModelError
from lightning_modules._products import Linear


class Inputs(nn.Module):
    """Give x_j of every step: row w_j of E where symbols come in, W v_j + b where frames do.

    The embedding starts from a normal distribution of this deviation, width**-0.5 if not given;
    W Xavier-uniform, b at zero.
    """

    def __init__(  # noqa: PLR0913 (what is read, and how)
        self,
        vocabulary_size: int,
        feature_size: int,
        width: int,
        *,
        dropout: float,
        symbol_dropout: float = 0.0,
        locked: bool = False,
        deviation: float | None = None,
    ) -> None:
        super().__init__()
        if bool(vocabulary_size) == bool(feature_size):
            raise ModelError(
                "the data must give symbols (vocabulary_size) or frames (feature_size) to read, "
                + ("not both" if vocabulary_size else "and gives neither")
            )
        self.output_size = width
        self.of_symbols = vocabulary_size > 0
        self.symbol_dropout = symbol_dropout
        self.map: nn.Embedding | nn.Linear = (
            _embedding(vocabulary_size, width, deviation or width**-0.5)
            if vocabulary_size
            else _linear(feature_size, width)
        )
        self.dropout = LockedDropout(dropout) if locked else Dropout(dropout)

    def forward(self, batch: Batch) -> Tensor:
        """Return x of every step, (B, S, E); what stands behind a length is not to be read.

        Never in half precision: what a state begins with would be so too.
        """
        mapped = self.map(self._some_unknown(batch.inputs))
        read: Tensor = self.dropout(mapped.to(torch.promote_types(mapped.dtype, torch.float32)))
        return read

    def _some_unknown(self, inputs: Tensor) -> Tensor:
        """Hide symbols by chance, so that the unknown one is learned too (Iyyer et al. 2015)."""
        if not (self.of_symbols and self.training and self.symbol_dropout):
            return inputs
        hidden = torch.rand(inputs.shape, device=inputs.device) < self.symbol_dropout
        return inputs.masked_fill(hidden, UNK)


def _embedding(symbols: int, width: int, deviation: float) -> nn.Embedding:
    embedding = nn.Embedding(symbols, width)
    nn.init.normal_(embedding.weight, std=deviation)
    return embedding


def _linear(features: int, width: int) -> nn.Linear:
    linear = Linear(features, width)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
