"""From messages to token ids with places for embeddings of pictures and sound, and their filling."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omni import _ext
from omni.errors import InvalidArgumentError
from omni.messages import Message, Picture, Sound
from omni.prompts import apply_chat_template, audio_placeholder, image_placeholder
from omni.vision_encoder import VisionEncoder

__all__ = ["Prompt", "PromptOptions", "build_prompt", "flatten", "image_rows", "place_media", "splice"]

DEFAULT_MAX_SLICES = 9
_IMAGE, _AUDIO = "<image>./</image>", "<audio>./</audio>"
_MIN_CLIP = 1600  # samples
_Span = tuple[int, int]  # [first, end) in the prompt


@dataclass(frozen=True)
class PromptOptions:
    """How a prompt is written. The values are those of the published `chat()`."""

    max_slice_nums: int | None = None  # None: 9
    use_image_id: bool | None = None  # None: yes
    enable_thinking: bool = False
    use_tts_template: bool = False  # a message with sound turns it on
    omni_mode: bool = False  # items of a message follow one another without a line break
    stream_input: bool = False  # the same, and a clip's places come in groups of one second
    generation_prompt: bool = True
    max_inp_length: int = 8192  # token ids
    image_rows: int = 64  # embeddings of an overview or slice: the vision encoder's queries

    @property
    def slices(self) -> int:
        """The limit that holds."""
        return DEFAULT_MAX_SLICES if self.max_slice_nums is None else self.max_slice_nums


@dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt, with `<unk>` at the places of embeddings."""

    text: str  # as the chat template gave it, a short placeholder for each picture and clip
    ids: NDArray[np.int32]
    image_spans: list[_Span]  # one an overview or slice
    audio_spans: list[_Span]
    pictures: list[NDArray[np.uint8]]
    clips: list[list[NDArray[np.float32]]]  # for each message with sound
    options: PromptOptions


def image_rows(vision: VisionEncoder | None) -> int:
    """Embeddings of an overview or slice: as many as the model's encoder gives."""
    return PromptOptions.image_rows if vision is None else vision.info.n_queries


def _extend(clip: NDArray[np.float32]) -> NDArray[np.float32]:
    """A clip long enough to make a row; zeros follow a shorter one."""
    missing = _MIN_CLIP - len(clip)
    return clip if missing <= 0 else np.concatenate([clip, np.zeros(missing, np.float32)])


def flatten(message: Message, separator: str) -> str:
    """A message's content as text, with placeholders."""
    texts = (
        _IMAGE if isinstance(part, Picture) else _AUDIO if isinstance(part, Sound) else part
        for part in message.parts
    )
    return separator.join(texts)


def build_prompt(
    tokenizer: _ext.Tokenizer, messages: Sequence[Message], options: PromptOptions | None = None
) -> Prompt:
    """Writes the prompt of a dialogue.

    Raises InvalidArgumentError if it has more than `max_inp_length` ids (the published code cuts its end off,
    and with it the question), or if a text holds what looks like a picture or clip.
    """
    options = options or PromptOptions()
    if options.max_slice_nums is not None and options.max_slice_nums < 1:
        raise InvalidArgumentError(f"max_slice_nums must be at least 1, not {options.max_slice_nums}")
    separator = "" if options.omni_mode or options.stream_input else "\n"
    pictures = [picture for message in messages for picture in message.pictures()]
    clips = [[_extend(clip) for clip in sounds] for message in messages if (sounds := message.sounds())]
    text = apply_chat_template(
        [
            {"role": m.role, "content": flatten(m, separator), "reasoning_content": m.reasoning}
            for m in messages
        ],
        add_generation_prompt=options.generation_prompt,
        enable_thinking=options.enable_thinking,
        use_tts_template=options.use_tts_template or bool(clips),
    )
    places = [audio_placeholder(len(clip), options.stream_input) for sounds in clips for clip in sounds]
    return Prompt(text, *place_media(tokenizer, text, pictures, places, options), pictures, clips, options)


def place_media(
    tokenizer: _ext.Tokenizer,
    text: str,
    pictures: Sequence[NDArray[np.uint8]],
    sounds: Sequence[str],
    options: PromptOptions,
) -> tuple[NDArray[np.int32], list[_Span], list[_Span]]:
    """Ids of a prompt whose short placeholders are replaced, and the places of pictures and clips.

    `sounds`: for each clip its markers with `<unk>` for each row. Raises as `build_prompt` does.
    """
    ids = _encode(tokenizer, _expand(text, pictures, sounds, options))
    if len(ids) > options.max_inp_length:
        raise InvalidArgumentError(
            f"the prompt has {len(ids)} tokens, more than max_inp_length = {options.max_inp_length}: "
            "shorten it, lower max_slice_nums or raise the limit"
        )
    image_spans = _find_spans(tokenizer, ids, ("<image>", "<slice>"), ("</image>", "</slice>"))
    slices = sum(_slice_count(picture, options) for picture in pictures)
    if len(image_spans) != slices or any(end - first != options.image_rows for first, end in image_spans):
        raise InvalidArgumentError("a text of the messages holds <unk> between markers of a picture")
    audio_spans = _find_spans(tokenizer, ids, ("<|audio_start|>",), ("<|audio_end|>",))
    places = sum(sound.count("<unk>") for sound in sounds)
    if sum(end - first for first, end in audio_spans) != places:
        raise InvalidArgumentError("a text of the messages holds <unk> between markers of a clip")
    return ids, image_spans, audio_spans


def _expand(
    text: str, pictures: Sequence[NDArray[np.uint8]], sounds: Sequence[str], options: PromptOptions
) -> str:
    """The text with the places of embeddings instead of placeholders."""
    if text.count(_IMAGE) != len(pictures) or text.count(_AUDIO) != len(sounds):
        raise InvalidArgumentError(
            f"a text of the messages holds {_IMAGE} or {_AUDIO}, which stand for pictures and clips, "
            "or reasoning that the template drops holds a picture or clip"
        )
    places = {
        _IMAGE: iter([_picture_places(i, picture, options) for i, picture in enumerate(pictures)]),
        _AUDIO: iter(sounds),
    }
    pattern = f"{re.escape(_IMAGE)}|{re.escape(_AUDIO)}"
    return re.sub(pattern, lambda found: next(places[found.group()]), text)


def _grid(picture: NDArray[np.uint8], options: PromptOptions) -> tuple[int, int]:
    """Columns and rows of its slices."""
    height, width = picture.shape[:2]
    return _ext.plan_slices(width, height, options.slices)[2] or (0, 0)


def _slice_count(picture: NDArray[np.uint8], options: PromptOptions) -> int:
    columns, rows = _grid(picture, options)
    return 1 + columns * rows


def _picture_places(number: int, picture: NDArray[np.uint8], options: PromptOptions) -> str:
    columns, rows = _grid(picture, options)
    shown = None if options.use_image_id is False else number
    return image_placeholder(shown, columns, rows, options.image_rows)


def _encode(tokenizer: _ext.Tokenizer, text: str) -> NDArray[np.int32]:
    """Ids of a prompt. <|listen|> belongs to duplex sessions and is left out, as the reference does."""
    ids = np.asarray(tokenizer.encode(text), dtype=np.int32)
    return np.delete(ids, np.flatnonzero(ids == tokenizer.required_id("<|listen|>")))


def _find_spans(
    tokenizer: _ext.Tokenizer, ids: NDArray[np.int32], starts: Sequence[str], ends: Sequence[str]
) -> list[_Span]:
    """Runs of <unk> between a start and an end marker, in order. A marker alone is a word of some text."""
    is_place = np.concatenate([ids == tokenizer.required_id("<unk>"), [False]])
    is_end = np.concatenate([np.isin(ids, [tokenizer.required_id(marker) for marker in ends]), [False]])
    spans = []
    for start in np.flatnonzero(np.isin(ids, [tokenizer.required_id(marker) for marker in starts])):
        first = int(start) + 1
        end = first + int(np.argmin(is_place[first:]))
        if end > first and is_end[end]:
            spans.append((first, end))
    return spans


def splice(embeds: NDArray[np.float32], spans: Sequence[_Span], rows: NDArray[np.float32]) -> None:
    """Overwrites the places of `spans` in embeds [n, D] with rows [k, D], one after another.

    Rows that are left over are dropped; places that are left over keep what they hold. Both happen: a clip
    merged of several can make a row more or less than they do alone.
    """
    places = (
        np.concatenate([np.arange(first, end) for first, end in spans]) if spans else np.zeros(0, np.int64)
    )
    count = min(len(places), len(rows))
    embeds[places[:count]] = rows[:count]
