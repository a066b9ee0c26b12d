"""Token sequences of duplex sessions and chats, and what is to be predicted in them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nano.items import ROWS, Item, Question
from nano.language import Pair, draw_pair, spoken_words
from nano.tokens import typed_forms
from omni import _ext
from omni.prompts import apply_chat_template, default_duplex_prompt

_ROWS_A_UNIT = 10
WORD_NUMBERS = {word: number for number, word in enumerate(spoken_words(), start=1)}
# Decisions are few beside words and listening, and matter most.
SPEAK_WEIGHT, LISTEN_WEIGHT = 4.0, 1.5
# A result is a single word, but must be learned for every sum.
_RESULT_WEIGHT = 3.0


@dataclass
class Sequence:
    """Ids (`<unk>` at audio rows), features of the audio rows, targets of each row (-1: none) and weights."""

    ids: list[int]
    features: NDArray[np.float16]
    targets: list[int]
    weights: list[float]
    words: list[int]  # that are spoken, by their numbers from 1


@dataclass
class Batch:
    """Sequences padded to one length; targets and weights of the rows that have some."""

    ids: Tensor
    features: Tensor
    is_audio: Tensor
    rows: Tensor
    targets: Tensor
    weights: Tensor
    words: list[list[int]]


class Sequencer:
    """Makes sequences with a model's tokenizer."""

    def __init__(self, tokenizer: _ext.Tokenizer) -> None:
        self.tokenizer = tokenizer
        names = (
            "<unk> <unit> </unit> <|listen|> <|speak|> <|turn_eos|> <|chunk_eos|> <|audio_start|> "
            "<|audio_end|> <|tts_eos|> <|im_end|>"
        )
        self.id = {name: tokenizer.required_id(name) for name in names.split()}
        self._think = tokenizer.required_id("<think>")
        self._is = tokenizer.encode(" is")[0]
        self._texts: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        found = self._texts.get(text)
        if found is None:
            found = self._texts[text] = self.tokenizer.encode(text)
        return found

    def _weight(self, token: int) -> float:
        """Weight of what follows a token of an answer."""
        return _RESULT_WEIGHT if token == self._is else 1.0

    def prompt(self) -> list[int]:
        """What a duplex session begins with."""
        return self.encode(f"<|im_start|>system\n{default_duplex_prompt()}<|im_end|>")

    def unit_tokens(self, say: str | None, ends: bool) -> list[int]:
        """What the model generates in a unit."""
        if say is None:
            return [self.id["<|listen|>"]]
        end = [self.id["<|turn_eos|>"]] if ends else []
        return [self.id["<|speak|>"], *self.encode(say), *end, self.id["<|chunk_eos|>"]]

    def duplex(self, item: Item, first: int, last: int) -> Sequence:
        """Units [first, last) of a scene after the system prompt, as if earlier ones had left the window."""
        ids = list(self.prompt())
        targets, weights = [-1] * len(ids), [0.0] * len(ids)

        def add(token: int, target: int = -1, weight: float = 0.0) -> None:
            ids.append(token)
            targets.append(target)
            weights.append(weight)

        for unit in range(first, last):
            says = self.unit_tokens(item.say[unit], item.ends[unit])
            add(self.id["<unit>"])
            for row in range(_ROWS_A_UNIT):
                if row < _ROWS_A_UNIT - 1:
                    add(self.id["<unk>"])
                else:
                    speaks = item.say[unit] is not None
                    add(self.id["<unk>"], says[0], SPEAK_WEIGHT if speaks else LISTEN_WEIGHT)
            for token, following in pairwise(says):
                add(token, following, self._weight(token))
            add(says[-1])
            add(self.id["</unit>"])
        spoken = sorted((h.start, h.question) for h in item.heard if h.kind != "armed" and first <= h.start)
        texts = dict.fromkeys(spoken)  # an interruption may be a question, too
        words = [WORD_NUMBERS[w] for start, text in texts if start < last - 1 for w in text.split()]
        return Sequence(ids, item.features[first * ROWS : last * ROWS], targets, weights, words)

    def audio_chat(self, question: Question, random_: random.Random) -> Sequence:
        """A spoken question and its answer."""
        rows = len(question.features) // 5
        marks = "<|audio_start|>" + "<unk>" * rows + "<|audio_end|>"
        messages = [*_system(random_), {"role": "user", "content": marks}]
        sequence = self._answered(messages, question.pair.answer + "<|tts_eos|>", True, question.features)
        sequence.words = [WORD_NUMBERS[w] for w in question.pair.question.split()]
        return sequence

    def text_chat(self, pairs: list[Pair], random_: random.Random) -> Sequence:
        """A typed dialogue; its last answer is what counts."""
        messages = _system(random_)
        for _ in range(random_.choice([0, 1, 2, 4, 6])):
            pair = draw_pair(random_, pairs)
            messages.append({"role": "user", "content": random_.choice(typed_forms(pair.question))})
            messages.append({"role": "assistant", "content": pair.answer})
        pair = draw_pair(random_, pairs)
        messages.append({"role": "user", "content": random_.choice(typed_forms(pair.question))})
        return self._answered(messages, pair.answer, False, np.zeros((0, 384), np.float16))

    def _answered(
        self, messages: list[dict[str, str]], answer: str, spoken: bool, features: NDArray[np.float16]
    ) -> Sequence:
        prompt = apply_chat_template(
            messages, add_generation_prompt=True, enable_thinking=False, use_tts_template=spoken
        )
        head = self.tokenizer.encode(prompt)
        tail = [*self.encode(answer), self.id["<|im_end|>"]]
        ids = head + tail[:-1]
        targets = [-1] * (len(head) - 1) + tail
        self._add_earlier_answers(head, targets)
        weights = [self._weight(i) if t >= 0 else 0.0 for i, t in zip(ids, targets, strict=True)]
        return Sequence(ids, features, targets, weights, [])

    def _add_earlier_answers(self, head: list[int], targets: list[int]) -> None:
        """The answers of earlier turns are to be predicted, too."""
        opener = self.tokenizer.encode("<|im_start|>assistant\n")
        for at in range(len(head) - len(opener) - 1):
            begin = at + len(opener)
            if head[at:begin] == opener and head[begin] != self._think:
                end = head.index(self.id["<|im_end|>"], begin)
                targets[begin - 1 : end] = head[begin : end + 1]


def _system(random_: random.Random) -> list[dict[str, str]]:
    kind = random_.random()
    if kind < 0.6:
        return []
    if kind < 0.8:
        return [{"role": "system", "content": "You are a helpful assistant."}]
    text = "You are a helpful assistant. You can accept audio and text input and output voice and text."
    return [{"role": "system", "content": text}]


def first_units(item: Item) -> list[int]:
    """Units at which a scene may be cut: nothing of a question or an answer lies across them."""
    free = [True] * len(item.say)
    for heard in item.heard:
        if heard.due >= 0 and heard.kind != "interruption":
            for unit in range(int(heard.start) + 1, min(heard.due + 1, len(free))):
                free[unit] = False
    armed = None
    for heard in item.heard:
        if heard.kind == "armed":
            armed = int(heard.start)
        elif heard.kind == "bell" and not heard.question and armed is not None:
            for unit in range(armed, min(heard.due + 1, len(free))):
                free[unit] = False
            armed = None
    if armed is not None:
        free[armed:] = [False] * (len(free) - armed)
    for unit in range(1, len(free)):
        if item.say[unit - 1] is not None and not item.ends[unit - 1]:
            free[unit] = False
    return [unit for unit, ok in enumerate(free) if ok]


def collate(sequences: list[Sequence], unk: int) -> Batch:
    """One batch."""
    length = max(len(s.ids) for s in sequences)
    ids = torch.zeros(len(sequences), length, dtype=torch.long)
    is_audio = torch.zeros(len(sequences), length, dtype=torch.bool)
    rows, targets, weights = [], [], []
    for i, s in enumerate(sequences):
        ids[i, : len(s.ids)] = torch.tensor(s.ids)
        is_audio[i, : len(s.ids)] = ids[i, : len(s.ids)] == unk
        for row, (target, weight) in enumerate(zip(s.targets, s.weights, strict=True)):
            if target >= 0:
                rows.append(i * length + row)
                targets.append(target)
                weights.append(weight)
    features = torch.from_numpy(np.concatenate([s.features for s in sequences])).float()
    numbers = (torch.tensor(rows), torch.tensor(targets), torch.tensor(weights))
    return Batch(ids, features, is_audio, *numbers, [s.words for s in sequences])
