"""What people write who follow a textbook: attention by a plain loop under autograd.

Bahdanau et al. 2015 with the library's own modules: a packed bidirectional encoder, the keys
projected once a sentence, a cell a step, the readout over all steps at once. It learns the same
function as our model at the same size, and is what a training step is held against.

It is written as the better ones are: JoeyNMT (`joeynmt/decoders.py`) projects keys and reads out
once for all steps, too, while tutorials project the keys anew at every step and read out inside the
loop (PyTorch's on translation, "Dive into deep learning" for the keys). A cell in place of a
library's loop over one step, embeddings of all words at once, and the optimiser, which is ours,
are faster than in any of these. It multiplies by whatever library torch chooses.

Shapes: B sentences, S source positions, T target positions, E embedding, H hidden, V symbols.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the name everybody reads)
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from datamodules._batch import Batch
from datamodules._vocab import BOS, PAD

_LAYERS = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
_CELLS = {"rnn": nn.RNNCell, "gru": nn.GRUCell, "lstm": nn.LSTMCell}


class Textbook(nn.Module):
    """An encoder-decoder with additive attention."""

    def __init__(self, cell: str, embedding: int, hidden: int, symbols: int) -> None:
        super().__init__()
        self.lstm = cell == "lstm"
        self.source = nn.Embedding(symbols, embedding)
        self.target = nn.Embedding(symbols, embedding)
        self.encoder = _LAYERS[cell](embedding, hidden, batch_first=True, bidirectional=True)
        self.first = nn.Linear(2 * hidden, hidden)
        self.key = nn.Linear(2 * hidden, hidden)
        self.query = nn.Linear(hidden, hidden, bias=False)
        self.energy = nn.Linear(hidden, 1, bias=False)
        self.cell = _CELLS[cell](embedding + 2 * hidden, hidden)
        self.readout = nn.Linear(3 * hidden + embedding, embedding)
        self.output = nn.Linear(embedding, symbols)
        self.output.weight = self.target.weight
        self.embedding_dropout, self.dropout = nn.Dropout(0.2), nn.Dropout(0.3)

    def forward(self, batch: Batch) -> Tensor:
        """Return the smoothed loss of a batch."""
        assert batch.targets is not None
        embedded = self.embedding_dropout(self.source(batch.inputs))
        packed = pack_padded_sequence(
            embedded, batch.lengths, batch_first=True, enforce_sorted=False
        )
        outputs, last = self.encoder(packed)
        values, _ = pad_packed_sequence(outputs, batch_first=True)
        ends = last[0] if self.lstm else last
        hidden = torch.tanh(self.first(torch.cat([ends[0], ends[1]], dim=1)))
        memory = torch.zeros_like(hidden)
        keys = self.key(values)
        padding = torch.arange(values.shape[1]) >= batch.lengths[:, None]
        begin = torch.full_like(batch.targets[:, :1], BOS)
        previous = torch.cat([begin, batch.targets[:, :-1]], dim=1)
        words = self.embedding_dropout(self.target(previous))
        features = []
        for word in words.unbind(1):
            energies = self.energy(torch.tanh(keys + self.query(hidden)[:, None])).squeeze(2)
            weights = torch.softmax(energies.masked_fill(padding, float("-inf")), dim=1)
            context = torch.bmm(weights[:, None], values)[:, 0]
            read = torch.cat([word, context], dim=1)
            if self.lstm:
                hidden, memory = self.cell(read, (hidden, memory))
            else:
                hidden = self.cell(read, hidden)
            features.append(torch.cat([hidden, word, context], dim=1))
        readout = self.dropout(torch.tanh(self.readout(torch.stack(features, dim=1))))
        logits = self.output(readout).flatten(0, 1)
        return F.cross_entropy(
            logits, batch.targets.flatten(), ignore_index=PAD, label_smoothing=0.1
        )
