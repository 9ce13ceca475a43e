"""From a data section to splits of token numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ..config import DataConfig
from ..errors import ConfigError, DataError
from ..inputs import BYTE_VOCABULARY, TextSpec
from .bundle import Batch, DataBundle, Split
from .order import epoch_order, held_out
from .sentences import load_sentences
from .shard import WHOLE, Shard
from .texts import RawTexts, Texts, load_texts
from .tokens import tokenise_all

__all__ = ["TokenSplit", "load_text", "text_spec"]

#: What is taken if the settings do not say: (tokens, vocabulary). All words of ``sentences`` get numbers of their own.
SIZES = {"sentences": (28, 512), "text": (128, 8192)}
BYTES_LENGTH = 512
#: Settings of images, with the value that means nothing was asked for.
_OF_IMAGES = {"image_size": None, "pad": 0, "crop": "none", "flip": False}


class TokenSplit(Split):
    """A split of texts whose tokens move to a device once and stay there.

    Args:
        tokens: int32 ``[n, length]``; batches are int64.
        labels: int64 ``[n]``.
        seed: of the order.
    """

    def __init__(self, tokens: Tensor, labels: Tensor, seed: int) -> None:
        self.labels = labels
        self._tokens = tokens
        self._device_labels = labels
        self._seed = seed

    def _move(self, device: torch.device | str) -> None:
        if self._tokens.device != torch.empty(0, device=device).device:  # "cuda" is "cuda:0"
            self._tokens = self._tokens.to(device)
            self._device_labels = self.labels.to(device)

    def batches(self, batch_size: int, device: torch.device | str, shard: Shard = WHOLE) -> Iterator[Batch]:
        """See ``Split``."""
        self._move(device)
        for start in range(0, len(self), batch_size):
            part = shard.of(start, min(start + batch_size, len(self)))
            if part.start < part.stop:
                yield self._tokens[part].long(), self._device_labels[part]

    def train_batches(
        self, epoch: int, batch_size: int, device: torch.device | str, start: int = 0, shard: Shard = WHOLE
    ) -> Iterator[Batch]:
        """See ``Split``."""
        self._move(device)
        order = torch.from_numpy(epoch_order(self._seed, epoch, len(self))).to(device)
        for step in range(start, self.steps_per_epoch(batch_size)):
            part = order[shard.of(step * batch_size, min((step + 1) * batch_size, len(self)))]
            yield self._tokens[part].long(), self._device_labels[part]


def text_spec(config: DataConfig) -> TextSpec:
    """How a data section turns texts into tokens.

    Raises:
        ConfigError: a setting of images, or a vocabulary that the unit does not have.
    """
    for name, off in _OF_IMAGES.items():
        if getattr(config, name) != off:
            raise ConfigError(
                f"data: {config.name} is text, which has no {name} = {getattr(config, name)!r}: leave it out, "
                "or begin with --recipe text"
            )
    length, vocabulary = SIZES[config.name]
    if config.unit == "bytes":
        length, vocabulary = BYTES_LENGTH, BYTE_VOCABULARY
    return TextSpec(config.tokens or length, config.vocabulary or vocabulary, config.unit or "words")


def load_text(config: DataConfig, *, data_dir: Path | None, seed: int) -> DataBundle:
    """Read texts, tokenise them and split them; see ``load_data``.

    Raises:
        ConfigError: see ``text_spec``.
        DataError: see ``load_texts``; a text without a single token.
    """
    spec = text_spec(config)
    raw = load_sentences() if config.name == "sentences" else load_texts(data_dir)
    parts = _parts(raw, config.validation, seed)
    splits = {name: _split(part, spec, seed) for name, part in parts.items()}
    return DataBundle(
        name=config.name,
        classes=raw.classes,
        image_shape=(),
        mean=(),
        std=(),
        train=splits["train"],
        val=splits.get("val"),
        test=splits["test"],
        text=spec,
        left_out=raw.left_out,
    )


def _parts(raw: RawTexts, validation: float, seed: int) -> dict[str, Texts]:
    parts = {"train": raw.train, "test": raw.test}
    if raw.val is not None:
        parts["val"] = raw.val
    elif validation > 0:
        kept, out = held_out(seed, len(raw.train.labels), validation)
        parts["train"], parts["val"] = raw.train.subset(kept), raw.train.subset(out)
    return parts


def _split(part: Texts, spec: TextSpec, seed: int) -> TokenSplit:
    tokens = tokenise_all(part.texts, spec)
    blank = (tokens == 0).all(axis=1)
    if blank.any():
        text = part.texts[int(blank.argmax())]
        raise DataError(f"text: no words, numbers or marks in the text {text[:60]!a}: remove it, or use unit = bytes")
    return TokenSplit(torch.from_numpy(tokens).int(), torch.from_numpy(part.labels), seed)
