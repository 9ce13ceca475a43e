"""``sentences``: short English sentences, made from a grammar, in which the order of the words decides the class.

Each sentence tells who did something to whom, and names two to four of six animals; its class is the one that did
it. All roles go to all animals alike and come in several orders ("the cat chased the dog", "the dog was chased by
the cat", "it was not the fox but the cat that chased the dog"), so a bag of words can only guess among the animals
that are named.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .order import generated_words
from .raw_data import RawData
from .texts import LabelledTexts

__all__ = ["ANIMALS", "TEST_SENTENCES", "TRAIN_SENTENCES", "load_sentences"]

TRAIN_SENTENCES, TEST_SENTENCES = 6000, 1500

ANIMALS = ("bear", "cat", "dog", "fox", "hen", "owl")
_ADJECTIVES = ("", "", "", "old ", "small ", "brown ", "quiet ", "clever ", "hungry ")
_VERBS = ("chased", "followed", "caught", "carried", "watched", "helped")
_RESTS = ("slept", "waited", "sang", "hid", "rested", "played")
_PLACES = ("", "", " in the garden", " near the river", " behind the barn", " under a tree", " after dark")
# {a} did it to {b}; {c} is a third animal that did not. Each starts with a subject or "it".
_CLAUSES = (
    "{a} {verb} {b}",
    "{a} {verb} {b}",
    "{b} was {verb} by {a}",
    "{b} was {verb} by {a}",
    "it was {a} that {verb} {b}",
    "it was {b} that {a} {verb}",
    "{a} and not {c} {verb} {b}",
    "{a} {verb} {b} and not {c}",
    "{b} was {verb} by {a} and not by {c}",
    "{b} and not {c} was {verb} by {a}",
    "it was not {c} but {a} that {verb} {b}",
    "it was not {c} but {b} that {a} {verb}",
)
# {d} is a fourth animal, of which something else is told.
_FRAMES = (
    "{clause}{place}",
    "{clause}{place} while {d} {rest}",
    "while {d} {rest}{place}, {clause}",
    "{d} {rest}{place} and {clause}",
)
# Random words of a sentence, in this order: clause, frame, verb, rest, place, four adjectives, four animals.
_WORDS = 16


def load_sentences() -> RawData[LabelledTexts]:
    """Make 6,000 sentences for training and 1,500 for testing, no two alike and always the same ones."""
    labels: dict[str, int] = {}
    total = TRAIN_SENTENCES + TEST_SENTENCES
    for words in generated_words(2 * total * _WORDS).reshape(-1, _WORDS).tolist():
        text, label = _sentence(words)
        labels.setdefault(text, label)
        if len(labels) == total:
            break
    every = LabelledTexts(tuple(labels), np.array(list(labels.values()), np.int64))
    order = np.arange(total)
    return RawData(ANIMALS, every.subset(order[:TRAIN_SENTENCES]), every.subset(order[TRAIN_SENTENCES:]))


def _sentence(words: Sequence[int]) -> tuple[str, int]:
    """Make a sentence and its label from 16 random words of 32 bits."""

    def choice(place: int, options: Sequence[str]) -> str:
        return options[words[place] * len(options) >> 32]

    left, nouns, doer = list(ANIMALS), {}, -1
    for place, role in enumerate("abcd"):
        animal = choice(9 + place, left)
        left.remove(animal)
        nouns[role] = f"the {choice(5 + place, _ADJECTIVES)}{animal}"
        if role == "a":
            doer = ANIMALS.index(animal)
    clause = choice(0, _CLAUSES).format(verb=choice(2, _VERBS), **nouns)
    text = choice(1, _FRAMES).format(clause=clause, rest=choice(3, _RESTS), place=choice(4, _PLACES), **nouns)
    return text[0].upper() + text[1:] + ".", doer
