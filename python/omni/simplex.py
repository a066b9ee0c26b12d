"""Simplex streaming: a turn is prefilled piece by piece while it is heard, then answered; the context stays.

`answer_groups`, `turn_text` and `Window` are the rules, without a model; `SimplexSession` puts them to work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from omni import _ext
from omni.errors import ContextFullError, InvalidArgumentError
from omni.messages import Message, parse_messages
from omni.multimodal import Prompt, PromptOptions, flatten, image_rows, place_media, splice
from omni.prompts import apply_chat_template, audio_rows

if TYPE_CHECKING:
    from omni.audio_encoder import AudioEncoder, AudioStream
    from omni.fetch import Limits
    from omni.language_model import Cache, LanguageModel
    from omni.vision_encoder import VisionEncoder

__all__ = [
    "SimplexSession",
    "TextGroup",
    "Window",
    "answer_groups",
    "answer_opener",
    "group_texts",
    "turn_text",
]

GROUP = 10  # tokens of an answer that are handed on together, and spoken as one block
SECOND = 16000  # samples; the encoder gives embeddings for whole seconds
STOP_TOKENS = ("<|tts_eos|>", "<|im_end|>", "</s>")
_ANSWER_END = "<|tts_eos|><|im_end|>\n"
_TURN = "<|im_start|>user\n"
_MAX_TAIL = 12  # rows of less than a second of sound, with their markers

Feed = Callable[[Sequence[int]], tuple[NDArray[np.float32], NDArray[np.float32]]]


class Sampler(Protocol):
    """What `answer_groups` needs of `omni.StreamingSampler`."""

    def begin_chunk(self) -> None: ...
    def sample(self, logits: NDArray[np.float32]) -> int: ...
    def is_stop(self, id: int) -> bool: ...


@dataclass(frozen=True, eq=False)
class TextGroup:
    """Tokens of an answer that the model has read, with the hidden states [n, D] of these very tokens."""

    ids: list[int]
    hidden: NDArray[np.float32]
    is_last: bool  # the model ended its answer; False for all if a limit did


def answer_groups(
    feed: Feed, sampler: Sampler, opener: Sequence[int], max_groups: int
) -> Iterator[TextGroup]:
    """Generates an answer in groups of 10 tokens, at most `max_groups`.

    Args:
        feed: appends tokens [n] to the context: hidden states [n, D], logits [V] behind them.
        sampler: of this answer.
        opener: tokens that open it.

    A token that is sampled is read (fed) before it is given, so that it has a hidden state. The first group
    samples one token more than it gives; it waits for the next group. A token that ends the answer is neither
    read nor given; when a limit ends it, neither is the one that waits.
    """
    hidden, logits = feed(opener)
    waiting: list[int] = []
    for group in range(max_groups):
        sampler.begin_chunk()
        ids: list[int] = []
        rows = [hidden[:0]]
        ended = False
        for _ in range(GROUP + (group == 0)):
            if waiting:
                row, logits = feed(waiting)
                ids += waiting
                rows.append(row)
            token = sampler.sample(logits)
            if ended := sampler.is_stop(token):
                break
            waiting = [token]
        yield TextGroup(ids, np.concatenate(rows), ended)
        if ended:
            return


def forced_groups(feed: Feed, opener: Sequence[int], ids: Sequence[int]) -> Iterator[TextGroup]:
    """An answer whose text is given: the groups that generating it would have made."""
    hidden, _ = feed(opener)
    for first in range(0, max(len(ids), 1), GROUP):
        part = list(ids[first : first + GROUP])
        yield TextGroup(part, feed(part)[0] if part else hidden[:0], first + GROUP >= len(ids))


def group_texts(groups: Iterator[TextGroup], tokenizer: _ext.Tokenizer) -> Iterator[tuple[str, bool]]:
    """Text of each group, and whether it ends the answer. Incomplete characters wait for their rest."""
    detokenizer = _ext.Detokenizer(tokenizer)
    for group in groups:
        text = "".join(map(detokenizer.push, group.ids))
        yield text + (detokenizer.flush() if group.is_last else ""), group.is_last


def answer_opener(*, enable_thinking: bool, use_tts_template: bool) -> str:
    """What ends the user's turn and begins the answer."""
    thought = "" if enable_thinking else "<think>\n\n</think>\n\n"
    return "<|im_end|>\n<|im_start|>assistant\n" + thought + ("<|tts_bos|>" if use_tts_template else "")


def turn_text(message: Message, separator: str, *, is_first: bool, opens_turn: bool, answered: bool) -> str:
    """The text that a message adds to the context, a short placeholder for each picture and clip.

    Args:
        separator: what stands between its items.
        is_first: it begins the session. Only then can it be the system's.
        opens_turn: the user has not said anything in this turn.
        answered: an answer stands before it, which still has to be closed.
    """
    body = flatten(message, separator)
    if is_first and message.role != "user":
        return apply_chat_template([{"role": message.role, "content": body}])
    if message.role == "user" and opens_turn:
        return (_ANSWER_END if answered else "") + _TURN + body
    return body


@dataclass
class Window:
    """Which rows of the context belong to which turn, and which turns go when it is full.

    A round is a user's turn with its answer and the tokens that close it. Rows of the system message are in
    no round and stay, as does the round that is going on.
    """

    high: int = 8000
    low: int = 6000
    protected: int = 0  # rows of the system message
    rounds: list[int] = field(default_factory=list)  # rows of each; the last one goes on

    @property
    def length(self) -> int:
        """Rows in all."""
        return self.protected + sum(self.rounds)

    def begin_round(self) -> None:
        """A user's turn begins."""
        self.rounds.append(0)

    def add(self, rows: int) -> None:
        """Rows of the round that goes on, or of the system message before the first."""
        if self.rounds:
            self.rounds[-1] += rows
        else:
            self.protected += rows

    def drop(self, incoming: int) -> int:
        """Rows behind the system message to remove before `incoming` come: whole rounds, oldest first."""
        if self.length + incoming <= self.high:
            return 0
        dropped = 0
        while len(self.rounds) > 1 and self.length + incoming > self.low:
            dropped += self.rounds.pop(0)
        return dropped

    def copy(self) -> Window:
        """An independent copy."""
        return replace(self, rounds=list(self.rounds))


class Model(Protocol):
    """What a session needs of `omni.MiniCPMO`."""

    llm: LanguageModel
    vision: VisionEncoder | None
    tokenizer: _ext.Tokenizer
    quirks: Any
    variant: Any

    def embed_prompt(self, prompt: Prompt) -> NDArray[np.float32]: ...
    def require_audio(self) -> AudioEncoder: ...


@dataclass(frozen=True)
class _Snapshot:
    length: int
    sound: AudioStream | None
    window: Window
    opens_turn: bool
    answered: bool
    dropped: int


class SimplexSession:
    """One dialogue. Tokens and embeddings go to a KV cache of its own.

    Differs from the published code, unless the model was loaded with quirks="reference": a system message
    that is not the first is refused instead of appended without its markers; line breaks and other marks that
    are bad to speak are possible in answers that are not spoken; an answer needs a question. Always: rows are
    counted as they are in the context, so that whole turns are dropped when it is full; an answer that ends
    at once is empty.
    """

    def __init__(self, model: Model, session_id: str | None, n_ctx: int) -> None:
        self.session_id = session_id
        self._model = model
        self._cache: Cache = model.llm.new_cache(n_ctx)
        self._window = Window(min(Window.high, n_ctx), min(Window.low, n_ctx * 3 // 4))
        self._dropped = 0  # rows, since the beginning
        self._closing = model.tokenizer.encode(_ANSWER_END)
        self._sound: AudioStream | None = None  # the user's sound in this turn
        self._opens_turn = True
        self._answered = False
        self._snapshot: _Snapshot | None = None
        self._is_busy = False

    @property
    def length(self) -> int:
        """Rows in the context."""
        return self._cache.length

    # ---- what is heard and seen ----

    def prefill(
        self,
        msgs: Sequence[Mapping[str, Any]],
        *,
        omni_mode: bool = True,
        max_slice_nums: int = 1,
        is_last_chunk: bool = False,
        limits: Limits | None = None,
    ) -> str:
        """Adds a message, or a piece of one; returns its text. See `MiniCPMO.streaming_prefill`."""
        message = self._parse(msgs, limits)
        options = PromptOptions(
            max_slice_nums=max_slice_nums,
            use_image_id=False,
            omni_mode=omni_mode,
            image_rows=image_rows(self._model.vision),
        )
        is_first = self._cache.length == 0
        opens_turn = message.role == "user" and self._opens_turn
        text = turn_text(
            message,
            "" if omni_mode else "\n",
            is_first=is_first,
            opens_turn=opens_turn,
            answered=self._answered,
        )
        clips, pictures = message.sounds(), message.pictures()
        # Refused before the encoder takes the sound in, which may hold most of a second from before.
        places = [_places(audio_rows(len(clip)) + 10) for clip in clips]
        expected = len(place_media(self._model.tokenizer, text, pictures, places, options)[0])
        self._make_room(expected)
        if message.role != "user":
            self._sound = None
            rows = [self._model.require_audio().encode(clip, chunk_seconds=None) for clip in clips]
        else:
            rows = [self._listen(clip, is_last_chunk) for clip in clips]
        places = [_places(len(part)) for part in rows]
        media = place_media(self._model.tokenizer, text, pictures, places, options)
        prompt = Prompt(text, *media, pictures, [], options)
        embeds = self._model.embed_prompt(prompt)
        if rows:
            splice(embeds, prompt.audio_spans, np.concatenate(rows))
        self._model.llm.forward(embeds, self._cache, "none", hidden="rows")
        added = len(prompt.ids)
        if opens_turn:
            if self._answered:  # these tokens close the last round
                self._window.add(len(self._closing))
                added -= len(self._closing)
            self._window.begin_round()
        self._window.add(added)
        self._opens_turn = message.role != "user"
        return text

    def _parse(self, msgs: Sequence[Mapping[str, Any]], limits: Limits | None) -> Message:
        if isinstance(msgs, (str, Mapping)) or len(msgs) != 1:
            raise InvalidArgumentError("streaming_prefill takes a list with exactly one message")
        self._require_idle()
        is_first = self._cache.length == 0
        is_reference = self._model.quirks == "reference"
        message = parse_messages(msgs, limits=limits)[0]
        role = msgs[0]["role"]
        if is_reference:
            message = replace(message, role=role)
        elif role != "user" and not is_first:
            raise InvalidArgumentError(
                f"only the first message of a session can be the {role}'s: call reset_session() or use "
                "another session_id for a new dialogue"
            )
        if role == "user" and len(message.sounds()) > 1:
            raise InvalidArgumentError(
                f"one clip at a time: the message holds {len(message.sounds())}; prefill one after another"
            )
        return message

    def _listen(self, clip: NDArray[np.float32], is_last: bool) -> NDArray[np.float32]:
        """Rows [k, D] of the next piece of the user's sound."""
        if self._sound is None:
            # As published: a short first piece is filled up at its beginning.
            clip = np.concatenate([np.zeros(max(SECOND - len(clip), 0), np.float32), clip])
            stream = self._model.require_audio().stream("simplex")
        elif len(clip) < SECOND and not is_last:
            raise InvalidArgumentError(
                f"a piece of {len(clip)} samples: only the last may have less than "
                f"{SECOND}, a second; collect more, or pass is_last_chunk=True"
            )
        else:
            stream = self._sound
        rows = stream.push(clip)
        if is_last:
            rows = np.concatenate([rows, stream.flush()])
        self._sound = None if is_last else stream
        return rows

    # ---- the answer ----

    def generate(
        self,
        sampler_options: Mapping[str, Any],
        *,
        max_new_tokens: int = 256,
        bos_input: str | Sequence[int] | None = None,
        enable_thinking: bool = False,
        use_tts_template: bool = True,
        spoken: bool = True,
        text: str | None = None,
        snapshot: bool = False,
    ) -> Iterator[TextGroup]:
        """Answers, group by group; what was not read is not generated.

        Args:
            sampler_options: of `omni.StreamingSampler`.
            max_new_tokens: rounded up to groups of 10, and less if the context has no room for more.
            bos_input: what opens the answer, instead of the usual.
            spoken: keep marks that are bad to speak out of the answer.
            text: the answer, instead of generating one.
            snapshot: make `restore()` return to here.
        """
        if max_new_tokens < 1:
            raise InvalidArgumentError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
        self._require_idle()
        if self._model.quirks != "reference" and (self._opens_turn or not self._window.rounds):
            raise InvalidArgumentError(
                "there is nothing to answer: call streaming_prefill() with a user's message"
            )
        tokenizer = self._model.tokenizer
        if bos_input is None:
            bos_input = answer_opener(enable_thinking=enable_thinking, use_tts_template=use_tts_template)
        opener = tokenizer.encode(bos_input) if isinstance(bos_input, str) else list(bos_input)
        ids = None if text is None else tokenizer.encode(text)
        wanted = max_new_tokens if ids is None else len(ids)
        tail = 0 if self._sound is None else _MAX_TAIL
        needed = tail + len(opener)
        self._make_room(needed + GROUP * math.ceil(wanted / GROUP), at_least=needed + GROUP)
        room = (self._cache.capacity - self._cache.length - tail - len(opener)) // GROUP
        if snapshot:
            self._save()
        if ids is not None:
            return self._run(forced_groups(self._feed, opener, ids[: room * GROUP]))
        stops = [id for token in STOP_TOKENS if (id := tokenizer.id_of(token)) is not None]
        always = self._model.quirks == "reference" and self._model.variant == "hub"
        forbidden = _ext.streaming_forbidden_ids(tokenizer) if spoken or always else []
        sampler = _ext.StreamingSampler(self._model.llm.info.n_vocab, stops, forbidden, **sampler_options)
        groups = min(math.ceil(max_new_tokens / GROUP), room)
        return self._run(answer_groups(self._feed, sampler, opener, groups))

    def _run(self, groups: Iterator[TextGroup]) -> Iterator[TextGroup]:
        self._require_idle()
        self._is_busy = True
        try:
            self._hear_the_rest()
            yield from groups
        finally:
            self._is_busy = False
            self._opens_turn = True
            self._answered = True
            self._sound = None

    def _hear_the_rest(self) -> None:
        """The user's last words, if they wait for more of a second. (The published code drops them.)"""
        if self._sound is None or self._model.quirks == "reference":
            return
        rows = self._sound.flush()
        if len(rows):
            embeds = self._model.llm.embed(self._model.tokenizer.encode(_places(len(rows))))
            embeds[1:-1] = rows
            self._model.llm.forward(embeds, self._cache, "none", hidden="rows")
            self._window.add(len(embeds))

    def _require_idle(self) -> None:
        if self._is_busy:
            raise InvalidArgumentError("an answer is being generated: read it to its end, or close it, first")

    def _feed(self, ids: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        tokens = np.asarray(ids, np.int32)
        hidden, logits = self._model.llm.forward(tokens, self._cache, "last")
        self._window.add(len(tokens))
        return hidden, logits[0]

    def _make_room(self, rows: int, at_least: int | None = None) -> None:
        """Drops old rounds before `rows` rows come; at least `at_least` (all) must fit then."""
        if dropped := self._window.drop(rows):
            self._cache.remove(self._window.protected, dropped)
            self._dropped += dropped
        needed = rows if at_least is None else at_least
        if self._cache.length + needed > self._cache.capacity:
            raise ContextFullError(
                f"{needed} more rows don't fit: {self._cache.length} of the context's {self._cache.capacity} "
                "positions hold the system message and this turn. Load the model with a larger n_ctx, or "
                "call reset_session()"
            )

    # ---- going back ----

    def _save(self) -> None:
        sound = None if self._sound is None else self._sound.clone()
        self._snapshot = _Snapshot(
            self._cache.length, sound, self._window.copy(), self._opens_turn, self._answered, self._dropped
        )

    def restore(self) -> bool:
        """Returns to before the answer generated with `snapshot`, once; False if that can't be done."""
        saved, self._snapshot = self._snapshot, None
        if saved is None or self._is_busy or saved.dropped != self._dropped:
            return False
        self._cache.truncate(saved.length)
        self._sound, self._window = saved.sound, saved.window
        self._opens_turn, self._answered = saved.opens_turn, saved.answered
        return True


def _places(rows: int) -> str:
    return "<|audio_start|>" + "<unk>" * rows + "<|audio_end|>"
