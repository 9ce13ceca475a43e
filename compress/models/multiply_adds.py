"""What a built-in network computes for one example, counted from shapes alone, so that it takes no torch.

`compress.analysis.flops` runs networks to count; a test holds that both agree on all built-in models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from .architecture import FAMILIES, TEXT_MODELS, AnyArchitecture, Architecture, TextArchitecture

__all__ = ["MultiplyAdds", "multiply_adds"]


@dataclass(frozen=True)
class MultiplyAdds:
    """Multiplications of a forward pass, each with its addition (MACs; FLOPs are twice as many), for one example.

    Those of convolutions, linear layers and attention; the padding of a convolution is counted as if it were computed.

    Attributes:
        uses: how many of them each weight of a tensor takes part in, by the name of the tensor.
        others: those between activations, which have no weight (attention).
    """

    uses: Mapping[str, int]
    others: int = 0

    def total(self, weights: Mapping[str, int]) -> int:
        """All together, if tensors have so many weights (that are not 0)."""
        return self.others + sum(uses * weights[name] for name, uses in self.uses.items())


def multiply_adds(arch: AnyArchitecture, shapes: Mapping[str, tuple[int, ...]]) -> MultiplyAdds | None:
    """Count those of a built-in model.

    Args:
        arch: of the network.
        shapes: of its tensors, by name.

    Returns:
        ``None`` for models that are not built in.
    """
    matrices = {name: shape for name, shape in shapes.items() if len(shape) >= 2}
    if isinstance(arch, TextArchitecture):
        return _of_texts(arch, matrices) if arch.name in TEXT_MODELS else None
    if arch.name not in FAMILIES:
        return None
    convolutions = {name: shape for name, shape in matrices.items() if len(shape) == 4}
    plain = any(name.startswith("features.") for name in convolutions)
    sides = _sides_of_plain(arch, convolutions) if plain else _sides_of_resnet(arch, convolutions)
    return MultiplyAdds({name: sides.get(name, 1) ** 2 for name in matrices})


def _of_texts(arch: TextArchitecture, matrices: Mapping[str, tuple[int, ...]]) -> MultiplyAdds:
    embeddings = ("tokens.weight", "places.weight")
    uses = {name: 0 if name in embeddings else arch.length if name.startswith("blocks.") else 1 for name in matrices}
    # Scores and mixtures: a product of [L, width] and [width, L], and one of [L, L] and [L, width], in each block.
    widths = [shape[0] for name, shape in matrices.items() if name.endswith("attention.query.weight")]
    return MultiplyAdds(uses, 2 * arch.length**2 * sum(widths))


def _sides_of_plain(arch: Architecture, convolutions: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Side of the output of each convolution of a network that is pooled after every second one.

    Behind whitening, which takes a pixel off, pooling comes after the first, third and fifth.
    """
    whitening = [name for name in convolutions if name.startswith("whitening.")]
    order = sorted((name for name in convolutions if name not in whitening), key=lambda name: int(name.split(".")[1]))
    side, first = arch.image_size - len(whitening), len(whitening)
    sides = {name: side >> (index + first) // 2 for index, name in enumerate(order)}
    return sides | dict.fromkeys(whitening, side)


def _sides_of_resnet(arch: Architecture, convolutions: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    def halved(side: int, times: int) -> int:
        for _ in range(times):
            side = (side + 1) // 2
        return side

    at_stem = halved(arch.image_size, arch.stem == "imagenet")
    after_stem = halved(at_stem, arch.stem == "imagenet")
    sides = {}
    for name, shape in convolutions.items():
        found = re.match(r"layer(\d)\.(\d+)\.(\w+)", name)
        if found is None:
            sides[name] = at_stem
            continue
        stage, block, layer = int(found[1]), int(found[2]), found[3]
        before = block == 0 and layer == "conv1" and prod(shape[2:]) == 1  # of a bottleneck, whose 3×3 has the stride
        sides[name] = halved(after_stem, max(stage - 1 - before, 0))
    return sides
