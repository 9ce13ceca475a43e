"""Multiply-adds of any network, counted while it runs: without values, where it runs without them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..inputs import AnyInput

__all__ = ["count_multiply_adds"]

#: Operators that multiply activations by activations; in all others, one factor is a weight.
_BETWEEN_ACTIVATIONS = ("bmm", "attention")


def count_multiply_adds(
    model: nn.Module,
    input: AnyInput,  # noqa: A002
    sizes: Mapping[str, tuple[int, int]],
) -> tuple[int, int]:
    """Run a network on one example under PyTorch's ``FlopCounterMode``, which counts matrix products and convolutions.

    Args:
        model: without masks; on the device ``meta``, where nothing is computed, or on another.
        input: what it takes.
        sizes: number of weights, and of kept ones, of each masked tensor, by its name in the state dict.

    Returns:
        Multiplications, each with its addition; and how many of them are between activations or with a weight that
        is kept.

    Raises:
        Exception: whatever the network raises; some look at values, and on ``meta`` there are none.
    """
    device = next((tensor.device for tensor in model.state_dict().values()), torch.device("cpu"))
    was_training = model.training
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            model.eval()(torch.from_numpy(input.example(1)).to(device))
    finally:
        model.train(was_training)
    counts = counter.get_flop_counts()
    everything = sum(counts["Global"].values())
    root = type(model).__name__
    with_weights = {  # of each module and of those inside it
        name.removeprefix(root).removeprefix("."): sum(
            flops for op, flops in by_op.items() if not any(kind in str(op) for kind in _BETWEEN_ACTIVATIONS)
        )
        for name, by_op in counts.items()
        if name != "Global"
    }
    own = Counter(with_weights)
    for name, flops in with_weights.items():
        if name:
            own[_nearest(name.rpartition(".")[0], with_weights)] -= flops
    weights, kept = Counter[str](), Counter[str]()
    for name, (all_weights, kept_weights) in sizes.items():
        owner = _nearest(name.rpartition(".")[0], with_weights)
        weights[owner] += all_weights
        kept[owner] += kept_weights
    pruned = sum(own[owner] * (1 - kept[owner] / weights[owner]) for owner in weights)
    return everything // 2, round((everything - pruned) / 2)


def _nearest(name: str, known: Mapping[str, object]) -> str:
    """The innermost module that has run, for a module or one around it (some use the tensors of those inside them)."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name
