"""How much memory the last layer and its loss need.

`python -m ... SYMBOLS WIDTH VOCABULARY HELD TYPE`: where HELD is not 0 each symbol may be copied
from an input that holds so many. Prints the megabytes by which forward and backward pass raise what
the process holds at most, above features, parameters, gradients and optimiser state. A process of
its own: peaks never fall.
"""

import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from lightning_modules._copying import Mixture
from lightning_modules._losses import read_out, readout_losses


def extra_megabytes(
    symbols: int, width: int, vocabulary: int, dtype: str = "float32", *, held: int = 0
) -> float:
    """Return what a fresh process measures."""
    sizes = (str(size) for size in (symbols, width, vocabulary, held))
    command = [sys.executable, "-m", __name__, *sizes, dtype]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


def _status(name: str) -> float:
    """Return an entry of the kernel's, in megabytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (found,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(found.split()[1]) * 1024 / 1e6


def _measure(symbols: int, width: int, vocabulary: int, held: int, dtype: torch.dtype) -> float:
    output = nn.Linear(width, vocabulary)
    optimiser = torch.optim.AdamW(output.parameters(), fused=True)
    features = torch.randn(symbols, width, dtype=dtype, requires_grad=True)
    targets = torch.randint(vocabulary, (symbols,))
    gate = torch.zeros(symbols, requires_grad=True)
    copied = torch.randint(vocabulary, (symbols, held))
    shares = torch.full((symbols, held), 1 / max(1, held), requires_grad=True)

    def step(rows: int) -> None:
        asked = targets[:rows]
        with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
            if held:
                cost = Mixture(gate[:rows], copied[:rows], shares[:rows]).cost(asked, 0.1)
                losses = read_out(features[:rows], output, cost)
            else:
                losses = readout_losses(features[:rows], output, asked, 0.1)
            losses.mean.backward()

    step(8)  # loads the libraries, and makes the gradients
    optimiser.step()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is what there is now
    step(symbols)
    return _status("VmHWM") - before


if __name__ == "__main__":
    *sizes, name = sys.argv[1:]
    sys.stdout.write(f"{_measure(*map(int, sizes), getattr(torch, name))}\n")
