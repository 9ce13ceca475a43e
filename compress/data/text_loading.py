"""From texts to splits of token numbers."""

from __future__ import annotations

import torch

from ..config import DataConfig
from ..errors import ConfigError, DataError
from ..inputs import BYTE_VOCABULARY, TextInput
from .memory_split import MemorySplit
from .texts import LabelledTexts
from .tokens import tokenise_all

__all__ = ["text_input", "token_split"]

#: (tokens, vocabulary) if the settings do not say. All words of ``sentences`` get numbers of their own.
SIZES = {"sentences": (28, 512), "text": (128, 8192)}
BYTES_LENGTH = 512
#: Settings that only images have, with their defaults.
_IMAGE_SETTINGS = {"image_size": None, "pad": 0, "crop": "none", "flip": False, "mean": None, "std": None}


def text_input(config: DataConfig) -> TextInput:
    """Return the tokeniser that a data section asks for.

    Raises:
        ConfigError: a setting of images, or a vocabulary that the unit does not have.
    """
    for name, default in _IMAGE_SETTINGS.items():
        if getattr(config, name) != default:
            raise ConfigError(
                f"data: {config.name} is text, which has no {name} = {getattr(config, name)!r}: leave it out, "
                "or begin with --recipe text"
            )
    length, vocabulary = SIZES[config.name]
    if config.unit == "bytes":
        length, vocabulary = BYTES_LENGTH, BYTE_VOCABULARY
    return TextInput(config.tokens or length, config.vocabulary or vocabulary, config.unit or "words")


def token_split(examples: LabelledTexts, text: TextInput, seed: int) -> MemorySplit:
    """Tokenise texts.

    Args:
        examples: texts and labels.
        text: the tokeniser.
        seed: decides the order of training examples.

    Raises:
        DataError: a text without a single token.
    """
    tokens = tokenise_all(examples.texts, text)
    blank = (tokens == 0).all(axis=1)
    if blank.any():
        first = examples.texts[int(blank.argmax())]
        raise DataError(f"text: no words, numbers or marks in the text {first[:60]!a}: remove it, or use unit = bytes")
    return MemorySplit(torch.from_numpy(tokens).int(), torch.from_numpy(examples.labels), seed)
