"""``iterand-compress models``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .options import json_option, print_json
from .table import print_table

if TYPE_CHECKING:
    from ..compress.models import AnyArchitecture

__all__ = ["command"]


@click.command(
    "models",
    short_help="List the built-in models, or show one.",
    epilog="Example: iterand-compress models resnet18",
)
@click.argument("name", required=False)
@json_option
def command(name: str | None, as_json: bool) -> None:
    """List the built-in models; of one NAME, also torchvision:NAME or package.module:factory, show the masked tensors.

    Weights are those that can be masked, at width 1, for 10 classes and colour images of 32×32 pixels (or texts of 28
    tokens out of 512).
    """
    if name is not None:
        _show(name, as_json)
        return
    from ..compress.models import model_names
    from ..compress.models.architecture import FAMILIES

    models = []
    for known in model_names():
        family = FAMILIES.get(known)
        models.append(
            {
                "name": known,
                "weights": sum(row["weights"] for row in _tensors(_architecture(known))),
                "smallest_image": family.smallest_image if family else None,
                "takes": "images" if family else "texts",
                "settings": ["width", *_own_settings(known)],
            }
        )
    if as_json:
        print_json({"models": models})
        return
    rows = [("name", "weights", "smallest image", "takes", "settings")]
    for row in models:
        side = row["smallest_image"]
        pixels = "" if side is None else f"{side}×{side}"
        rows.append((row["name"], f"{row['weights']:,}", pixels, row["takes"], ", ".join(row["settings"])))
    print_table(rows, left=(0, 3, 4))
    click.echo("\nAlso: torchvision:NAME for its classifiers (torchvision:mobilenet_v3_small), package.module:factory.")


def _own_settings(name: str) -> list[str]:
    """Settings of the section ``[model]`` that the model takes, beside its width."""
    from ..compress.models.architecture import FAMILIES

    family = FAMILIES.get(name)
    if family is None:
        return ["affine"]
    return [
        *(["affine"] if family.always_batch_norm else []),
        "activation",
        *(["batch_norm"] if family.chooses_batch_norm else []),
        *(["stem"] if family.has_stem else []),
    ]


def _architecture(name: str) -> AnyArchitecture:
    from ..compress.config import ModelConfig
    from ..compress.inputs import ImageInput, TextInput
    from ..compress.models import resolve
    from ..compress.models.architecture import TEXT_MODELS

    text = name in TEXT_MODELS
    takes = TextInput(length=28, vocabulary=512) if text else ImageInput((3, 32, 32), (0.0,) * 3, (1.0,) * 3)
    return resolve(ModelConfig(name=name), num_classes=10, input=takes)


def _tensors(architecture: AnyArchitecture) -> list[dict[str, Any]]:
    """Name, shape and number of weights of each tensor that is masked."""
    from ..compress.mask.maskable import chosen_weights
    from ..compress.models import is_foreign
    from ..compress.models.build import build_model

    device = "cpu" if is_foreign(architecture) else "meta"  # others may look at values while they are built
    model = build_model(architecture, seed=0, allow_import=True, device=device)
    return [
        {"name": chosen.label, "shape": list(chosen.weight.shape), "weights": chosen.weight.numel()}
        for chosen in chosen_weights(model, None)
    ]


def _show(name: str, as_json: bool) -> None:
    architecture = _architecture(name)
    tensors = _tensors(architecture)
    total = sum(row["weights"] for row in tensors)
    if as_json:
        print_json({"architecture": architecture.to_dict(), "weights": total, "tensors": tensors})
        return
    rows = [("tensor", "shape", "weights")]
    rows += [(row["name"], "×".join(map(str, row["shape"])), f"{row['weights']:,}") for row in tensors]
    print_table([*rows, ("total", "", f"{total:,}")], left=(0, 1))
