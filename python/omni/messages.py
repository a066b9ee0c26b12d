"""Messages of a dialogue: native and OpenAI-style content made uniform, media read and checked."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from omni.errors import FormatError, InvalidArgumentError
from omni.fetch import Limits, fetch
from omni.images import load_image

__all__ = ["Message", "Part", "Picture", "Sound", "parse_messages"]

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture in a message: uint8 RGB [height, width, 3]."""

    pixels: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Sound:
    """A clip in a message: mono float32 [n] at 16 kHz."""

    samples: NDArray[np.float32]


Part: TypeAlias = "str | Picture | Sound"


@dataclass(frozen=True)
class Message:
    """One message of a dialogue."""

    role: str
    parts: tuple[Part, ...]
    reasoning: str | None = None  # of an assistant

    def sounds(self) -> list[NDArray[np.float32]]:
        """Its clips, in order."""
        return [part.samples for part in self.parts if isinstance(part, Sound)]

    def pictures(self) -> list[NDArray[np.uint8]]:
        """Its pictures, in order."""
        return [part.pixels for part in self.parts if isinstance(part, Picture)]


def parse_messages(
    msgs: str | Sequence[Mapping[str, Any]],
    *,
    limits: Limits | None = None,
    assistant_first: bool = True,
) -> list[Message]:
    """The messages of one dialogue.

    Args:
        msgs: messages `{"role": "system" | "user" | "assistant", "content": ...}`, or JSON text of a list of
            them. Content is text or a list of items: text, a Pillow image or uint8 pixels, a float array
            (16 kHz mono), or an OpenAI-style item: `{"type": "text", "text": ...}`, `{"type": "image_url",
            "image_url": {"url": ...}}`, the same with `audio_url` and `video_url` (options `stack_frames`
            and `use_audio`), or `input_audio` with base64 `data`. Addresses are paths, http(s), data or file
            URLs.
        limits: what addresses may be read.
        assistant_first: take a leading assistant message as the system's, as published samples mean it;
            otherwise refuse it as the published code does.

    Raises:
        InvalidArgumentError: wrong roles, content or arrays. ModelFileError, FormatError: unreadable media.
    """
    items = _parse_json(msgs) if isinstance(msgs, str) else msgs
    if isinstance(items, (str, Mapping)) or not isinstance(items, Sequence) or not items:
        raise InvalidArgumentError("messages must be a list with at least one message")
    messages = [_parse_message(item, number, limits or Limits()) for number, item in enumerate(items)]
    if messages[0].role == "assistant":
        if not assistant_first:
            raise InvalidArgumentError("the first message must be the user's or the system's")
        messages[0] = Message("system", messages[0].parts)
    return messages


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidArgumentError(f"messages given as text must be JSON: {error}") from error


def _parse_message(item: Any, number: int, limits: Limits) -> Message:
    name = f"message {number}"
    if not isinstance(item, Mapping):
        raise InvalidArgumentError(
            f"{name} must be a dictionary with role and content, not {type(item).__name__}"
        )
    role = item.get("role")
    if role not in ROLES:
        raise InvalidArgumentError(f"{name}: role must be one of {', '.join(ROLES)}, not {role!r}")
    if "content" not in item:
        raise InvalidArgumentError(f"{name} has no content")
    unknown = sorted(set(item) - {"role", "content", "reasoning_content"})
    if unknown:
        raise InvalidArgumentError(f"{name} has unknown fields: {', '.join(map(str, unknown))}")
    content = item["content"]
    if isinstance(content, (str, Mapping)) or not isinstance(content, Sequence):
        content = [content]
    parts = tuple(
        part for i, entry in enumerate(content) for part in _parse_item(entry, f"{name}, item {i}", limits)
    )
    reasoning = item.get("reasoning_content")
    if not isinstance(reasoning, (str, type(None))):
        raise InvalidArgumentError(f"{name}: reasoning_content must be text, not {type(reasoning).__name__}")
    return Message(role, tuple(parts), reasoning)


def _parse_item(item: Any, name: str, limits: Limits) -> Iterator[Part]:
    if isinstance(item, (str, Picture, Sound)):
        yield item
    elif isinstance(item, Mapping):
        yield from _parse_structured(item, name, limits)
    elif isinstance(item, np.ndarray) and item.ndim == 1:
        yield Sound(_check_samples(item, name))
    elif isinstance(item, np.ndarray) or type(item).__module__.startswith("PIL."):
        yield Picture(load_image(item))
    else:
        raise InvalidArgumentError(
            f"{name}: {type(item).__name__} is no content; text, a Pillow image, a float array of 16 kHz "
            "mono sound or a dictionary with a type is"
        )


def _check_samples(samples: NDArray[Any], name: str) -> NDArray[np.float32]:
    if not np.issubdtype(samples.dtype, np.floating):
        raise InvalidArgumentError(f"{name}: sound must be float samples in [-1, 1], not {samples.dtype}")
    if len(samples) == 0:
        raise InvalidArgumentError(f"{name}: the sound is empty")
    if not np.isfinite(samples).all():
        raise InvalidArgumentError(f"{name}: the sound has samples that are NaN or infinite")
    return np.ascontiguousarray(samples, dtype=np.float32)


def _parse_structured(item: Mapping[str, Any], name: str, limits: Limits) -> Iterator[Part]:
    kind = item.get("type")
    if kind == "text":
        yield _field(item, "text", name)
    elif kind == "image_url":
        data = fetch(_url(item, kind, name), "image", limits)
        yield Picture(_read_picture(data, name))
    elif kind == "audio_url":
        yield Sound(_read_sound(fetch(_url(item, kind, name), "audio", limits), name))
    elif kind == "input_audio":
        payload = _field(_options(item, kind, name), "data", name)
        try:
            data = base64.b64decode(payload, validate=True)
        except (binascii.Error, ValueError) as error:
            raise FormatError(f"{name}: not valid base64: {error}") from error
        yield Sound(_read_sound(data, name))
    elif kind == "video_url":
        options = _options(item, kind, name)
        data = fetch(_url(item, kind, name), "video", limits)
        yield from _read_video(data, options, name)
    else:
        raise InvalidArgumentError(
            f"{name}: type must be text, image_url, audio_url, video_url or input_audio, not {kind!r}"
        )


def _options(item: Mapping[str, Any], kind: str, name: str) -> Mapping[str, Any]:
    value = item.get(kind)
    if isinstance(value, str) and kind != "input_audio":
        return {"url": value}
    if not isinstance(value, Mapping):
        raise InvalidArgumentError(f"{name}: {kind} must be a dictionary, not {type(value).__name__}")
    return value


def _field(item: Mapping[str, Any], key: str, name: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{name}: {key} must be text, not {type(value).__name__}")
    return value


def _url(item: Mapping[str, Any], kind: str, name: str) -> str:
    return _field(_options(item, kind, name), "url", name)


def _read_sound(data: bytes, name: str) -> NDArray[np.float32]:
    from omni.audio_io import load_audio

    try:
        return load_audio(data)
    except (FormatError, InvalidArgumentError) as error:
        raise type(error)(f"{name}: {error}") from error


def _read_picture(data: bytes, name: str) -> NDArray[np.uint8]:
    try:
        return load_image(data)
    except (FormatError, InvalidArgumentError) as error:
        raise type(error)(f"{name}: {error}") from error


def _read_video(data: bytes, options: Mapping[str, Any], name: str) -> Iterator[Part]:
    stack_frames, use_audio = options.get("stack_frames", 1), options.get("use_audio", True)
    if not isinstance(stack_frames, int) or not isinstance(use_audio, bool):
        raise InvalidArgumentError(f"{name}: stack_frames must be a whole number and use_audio true or false")
    try:
        yield from video_parts(data, stack_frames, use_audio)
    except (FormatError, InvalidArgumentError) as error:
        raise type(error)(f"{name}: {error}") from error


def video_parts(video: bytes | str, stack_frames: int = 1, use_audio: bool = True) -> Iterator[Part]:
    """A video as content: for each second its picture, its sound and what its further pictures compose."""
    from omni.media import get_video_frame_audio_segments

    frames, segments, stacked = get_video_frame_audio_segments(
        video, stack_frames=stack_frames, use_audio=use_audio
    )
    for second, frame in enumerate(frames):
        yield Picture(load_image(frame))
        if segments is not None:
            yield Sound(segments[second])
        # For long videos, pictures and seconds do not correspond one to one.
        if stacked is not None and second < len(stacked) and (composed := stacked[second]) is not None:
            yield Picture(load_image(composed))
