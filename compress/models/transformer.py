"""A small transformer that classifies texts given as token numbers."""

from __future__ import annotations

import math
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from ..inputs import PADDING
from .architecture import TextArchitecture
from .convnets import scaled

__all__ = ["Attention", "TextTransformer"]

HEAD_WIDTH = 32
# What a padded place gets instead of its score: finite, so that a text of padding alone gives no NaN, and so low that
# its weight is exactly 0 beside any real place. Within the range of bfloat16 and float16.
_NOWHERE = -3e4


class Attention(nn.Module):
    """Multi-head self-attention: ``softmax(q kᵀ / √head_width) v`` over the places that hold a token.

    Four plain linear layers without biases, so that each matrix is masked like any other layer.
    Source: Vaswani et al. 2017, section 3.2.

    Input float ``[B, L, width]`` and bool ``[B, L]`` (true: a token), output float ``[B, L, width]``.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.scale = 1 / math.sqrt(self.head_width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """Attend over the places of each text."""
        query, key, value = (self._split(layer(x)) for layer in (self.query, self.key, self.value))
        scores = query @ key.transpose(-2, -1) * self.scale  # [B, heads, L, L]
        scores = scores.masked_fill(~present[:, None, None, :], _NOWHERE)
        mixed = F.softmax(scores, dim=-1) @ value  # [B, heads, L, head_width]
        return cast("Tensor", self.out(mixed.transpose(1, 2).flatten(2)))

    def _split(self, x: Tensor) -> Tensor:
        """``[B, L, width]`` to ``[B, heads, L, head_width]``."""
        return x.reshape(*x.shape[:2], self.heads, self.head_width).transpose(1, 2)


class Block(nn.Module):
    """Attention, then two linear layers, each on normalised input and added to it (pre-LayerNorm)."""

    def __init__(self, width: int, heads: int, hidden: int, *, affine: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=affine)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=affine)
        self.mlp = nn.Sequential(nn.Linear(width, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, width, bias=False))

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """Apply attention and the linear layers, each with a residual connection."""
        x = x + self.attention(self.norm1(x), present)
        return cast("Tensor", x + self.mlp(self.norm2(x)))


class TextTransformer(nn.Module):
    """Embeddings of tokens and places, ``depth`` blocks, the mean over the places that hold a token, a linear layer.

    The width is 128 times ``width``, rounded to whole heads of 32; the hidden layers have twice that. No biases,
    and LayerNorm without trained scales and shifts unless ``affine``. What follows the end of a text has
    no effect; a text without tokens gives 0 for every class.

    Input int64 ``[B, length]``, output float ``[B, num_classes]``.
    """

    def __init__(self, arch: TextArchitecture, *, depth: int) -> None:
        super().__init__()
        heads = max(1, round(scaled(128, arch.width) / HEAD_WIDTH))
        width = heads * HEAD_WIDTH
        self.tokens = nn.Embedding(arch.vocabulary, width)
        self.places = nn.Embedding(arch.length, width)
        self.blocks = nn.ModuleList(Block(width, heads, 2 * width, affine=arch.affine) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=arch.affine)
        self.classifier = nn.Linear(width, arch.num_classes, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Class scores."""
        present = tokens != PADDING
        x = self.tokens(tokens) + self.places.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x, present)
        counted = present.to(x.dtype).unsqueeze(2)  # [B, L, 1]
        total = (self.norm(x) * counted).sum(dim=1)
        return cast("Tensor", self.classifier(total / counted.sum(dim=1).clamp_min(1)))
