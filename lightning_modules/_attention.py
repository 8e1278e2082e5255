"""The step that attends, and the loop over it.

Shapes: B sentences, N = B * k rows (k queries to each sentence: 1 in training, the beam when
searching), S source positions, T target positions, C width of an annotation h_j, A width of a key,
H hidden units, G*H a cell's drive, W a cell's state.

Bahdanau, Cho & Bengio 2015, "Neural machine translation by jointly learning to align and
translate", with its names:

    e_ij = a(s_{i-1}, h_j),  α_ij = softmax_j(e_ij),
    c_i = Σ_j α_ij h_j,      s_i = f(s_{i-1}, y_{i-1}, c_i).

An `Order` may attend with s_i instead, and feed the next step or not; it may look more than once
(`Hops`). A `Score` (`_scores.py`) is any a.
What does not depend on s_{i-1} is computed before the loop: the keys (what `a` sees of h_j) once a
sentence, W_y y + b of all steps in one product. `scan` runs a loop with a backward by hand
(`_scan.py`) where it can, and none where no step waits for attention; `plain_scan`, which autograd
differentiates, is the reference of both.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_modules._cells import Cell, product_dtype
from lightning_modules._graphs import recorded, roomy, widened
from lightning_modules._orders import Order, WaitingOrder, further_looks
from lightning_modules._parts import Attention, Memory, Parts, padding_bias
from lightning_modules._recurrence import Chain
from lightning_modules._recurrent import Drives, run_driven
from lightning_modules._scan import Attended, Look, LookBack
from lightning_modules._scores import Past, Score


def bind(
    cell: Cell, score: Score, order: Order, memory: Memory, mask: Tensor | None = None
) -> Parts:
    """Cast annotations and all weights of the step to the dtype of the products, once a batch.

    The mask (B, H) is what recurrent dropout leaves of the states, at every step.
    """
    dtype = product_dtype(memory.values.device, memory.values.dtype)
    memory = replace(memory, values=memory.values.to(dtype))
    with torch.autocast(memory.values.device.type, enabled=False):
        return Parts(
            attention=Attention(
                score.bind(memory.keys, dtype), memory, further_looks(order, dtype)
            ),
            move=cell.bind_raw(dtype, mask),
            visible=cell.visible,
            advance=order.bind(dtype),
            width=cell.state_size,
            fed=order.fed,
            looks_back=score.looks_back,
            covers=score.covers,
        )


def remember(score: Score, values: Tensor, lengths: Tensor) -> Memory:
    """Project the keys of annotations (B, S, C) and mask their padding; all float32 or wider."""
    wide = torch.promote_types(values.dtype, torch.float32)
    return Memory(
        values=values.to(wide),
        keys=score.keys(values).to(wide),
        bias=padding_bias(lengths, values.shape[1], wide),
    )


@dataclass(frozen=True)
class Scanned:
    """Hold what the loop leaves for the readout."""

    #: Visible states s_i, (B, T, H).
    states: Tensor
    #: Contexts c_i, (B, T, C).
    contexts: Tensor
    #: α_ij, (B, T, S).
    weights: Tensor


def scan(
    cell: Cell, score: Score, order: Order, *, memory: Memory, drives: Drives, state: Tensor
) -> Scanned:
    """Run the step that attends over all target positions.

    drives are W_y y_{i-1} + b, state (B, W) is s_0. With layer norm b is the cell's, and
    LN(W_y y_{i-1} + W_c c_i; γ_x) + b is made in the loop: c_i depends on the state.

    Coverage takes the plain loop, and so do hops where a step waits for attention.
    """
    waits = isinstance(order, WaitingOrder)
    if score.covers or (order.hops and (waits or score.looks_back)):
        return plain_scan(cell, score, order, memory=memory, drives=drives, state=state)
    if isinstance(order, WaitingOrder):
        return _scan_by_hand(cell, score, order, memory=memory, drives=drives, state=state)
    wide = memory.values.dtype
    states = run_driven(cell, drives, state.to(wide)).to(wide)
    if score.looks_back:
        return attend_in_turn(score, memory, states)
    return _attend_at_once(score, order, memory, states)


def _attend_at_once(score: Score, order: Order, memory: Memory, states: Tensor) -> Scanned:
    """Let all states (B, T, H) attend."""
    wide = memory.values.dtype
    dtype = product_dtype(states.device, wide)
    bound = replace(memory, values=memory.values.to(dtype))
    attend = Attention(score.at_once(memory.keys, dtype), bound, further_looks(order, dtype))
    nothing = states.new_empty(states.shape[0] * states.shape[1], 0)
    with torch.autocast(states.device.type, enabled=False):
        found = attend(states.flatten(0, 1), Past(nothing, nothing))
    contexts, weights = (each.to(wide).view(*states.shape[:2], -1) for each in found)
    return Scanned(states, contexts, weights)


def attend_in_turn(score: Score, memory: Memory, states: Tensor) -> Scanned:
    """Let all states (B, T, H) attend, each with weights that those before it have left."""
    sizes = states.shape[1], *memory.bias.shape
    steps, rows, positions = (roomy(each, states.device) for each in sizes)
    look = _look(score, memory.widened(rows, positions), steps)
    queries = widened(states.transpose(0, 1), steps, rows)
    contexts, weights = recorded(LookBack(look, queries), score).run()
    found = contexts, weights[..., : sizes[2]]
    return Scanned(states, *(each[: sizes[0], : sizes[1]].transpose(0, 1) for each in found))


def _look(score: Score, memory: Memory, steps: int) -> Look:
    dtype = product_dtype(memory.keys.device, memory.keys.dtype)
    step = score.step(memory.keys, steps, dtype)
    return Look(step, Attended(memory.values, memory.bias), steps)


def _scan_by_hand(
    cell: Cell, score: Score, order: WaitingOrder, *, memory: Memory, drives: Drives, state: Tensor
) -> Scanned:
    wide, device = memory.values.dtype, state.device
    sizes = drives.steps, *memory.bias.shape
    steps, rows, positions = (roomy(each, device) for each in sizes)
    dtype, mask = product_dtype(device, wide), cell.mask(len(state))
    moved = widened(drives.product().transpose(0, 1).to(wide), steps, rows)
    look = _look(score, memory.widened(rows, positions), steps)
    chain = Chain(
        cell.step(raw=True),
        cell.weight.to(dtype),
        widened(state.to(wide), rows),
        steps,
        None if mask is None else widened(mask, rows),
    )
    states, contexts, weights = order.scan(chain, look, moved, dtype)
    found = cell.visible(states), contexts, weights[..., : sizes[2]]
    return Scanned(*(each[: sizes[0], : sizes[1]].transpose(0, 1) for each in found))


def plain_scan(
    cell: Cell, score: Score, order: Order, *, memory: Memory, drives: Drives, state: Tensor
) -> Scanned:
    """Do what `scan` does by a plain loop that autograd differentiates: the reference."""
    states, contexts, weights = [], [], []
    # Everything is cast and drawn here, once.
    parts = bind(cell, score, order, memory, cell.mask(len(state)))
    state, moved = parts.start(state), drives.product().to(parts.memory.values.dtype)
    with torch.autocast(state.device.type, enabled=False):
        for drive in moved.transpose(0, 1).contiguous():
            state, context, weight = parts.step(drive, state)
            states.append(cell.visible(parts.split(state)[0]))
            contexts.append(context)
            weights.append(weight)
    return Scanned(
        torch.stack(states, dim=1), torch.stack(contexts, dim=1), torch.stack(weights, dim=1)
    )


def keep_rows(parts: Parts, score: Score, index: Tensor) -> Parts:
    """Return the parts for some of the sentences: those that left the search cost no more."""
    memory = parts.memory.rows(index)
    with torch.autocast(memory.keys.device.type, enabled=False):
        energies = score.bind(memory.keys, memory.values.dtype)
    return replace(parts, attention=replace(parts.attention, memory=memory, energies=energies))
