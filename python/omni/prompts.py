"""Prompts as text: the chat template, placeholders for pictures and sound, system prompts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from omni import _ext
from omni._ext import audio_placeholder, audio_rows, default_duplex_prompt, image_placeholder
from omni.errors import InvalidArgumentError

__all__ = [
    "apply_chat_template",
    "audio_placeholder",
    "audio_rows",
    "default_duplex_prompt",
    "duplex_prompt",
    "image_placeholder",
    "mimic_messages",
    "read_aloud_messages",
    "system_prompt",
    "voice_prompt",
]

# The published words, to the letter: the model was trained with them.
_VOICE_PREFIX = {
    "zh": "根据输入的音频提示生成相似的语音。",
    "en": "Clone the voice in the provided audio prompt.",
}
_VOICE_SUFFIX = {
    "zh": "作为助手，你将使用这种声音风格说话。 请认真、高质量地回复用户的问题。 "
    "请用高自然度的方式和用户聊天。",
    "en": "Your task is to be a helpful assistant using this voice pattern. Please answer the user's "
    "questions seriously and in a high quality. Please chat with the user in a high naturalness style.",
}
_PERSONA = {
    "zh": "你是一个具有以上声音风格的AI助手。请用高拟人度、口语化的方式和用户聊天。",
    "en": "Please chat with the user in a highly human-like and oral style.",
}
_READ_PREFIX = "模仿音频样本的音色并生成新的内容。"
_READ_SUFFIX = "请用这种声音风格来为用户提供帮助。 直接作答，不要有冗余内容"
_READ = "请朗读以下内容。"
_MIMIC_SYSTEM = (
    "You are a helpful assistant. You can accept video, audio, and text input and output voice and text. "
    "Respond with just the answer, no redundancy."
)
_MIMIC = "Please repeat the following speech in the appropriate language."


def duplex_prompt(text: str | None, has_span: bool) -> tuple[str, str]:
    """What a full-duplex session begins with, before and after the recording (or an empty span for one).

    Args:
        text: what the model is to be; None or empty: the published default.
        has_span: there are marks of a recording.
    """
    opening = f"<|im_start|>system\n{text or default_duplex_prompt()}"
    if not has_span:
        return opening, "<|im_end|>"
    return f"{opening}\n<|audio_start|>", "<|audio_end|><|im_end|>"


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _message(message: Mapping[str, Any]) -> _ext.ChatMessage:
    role, content = message.get("role"), message.get("content") or ""
    if not isinstance(role, str) or not isinstance(content, str):
        raise InvalidArgumentError(f"a message needs a role and a text as content, not {message!r:.200}")
    calls = []
    for call in message.get("tool_calls") or []:
        function = call.get("function") or call
        calls.append((function["name"], _json(function["arguments"])))
    return _ext.ChatMessage(role, content, reasoning=message.get("reasoning_content"), tool_calls=calls)


def apply_chat_template(
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Any] = (),
    add_generation_prompt: bool = False,
    enable_thinking: bool | None = None,
    use_tts_template: bool = False,
) -> str:
    """The prompt for a conversation, as the checkpoint's chat template renders it.

    Args:
        messages: dicts with ``role`` (system, user, assistant, tool), ``content`` (text) and, for assistants,
            ``reasoning_content`` and ``tool_calls``.
        tools: functions the model may call, as JSON text or objects.
        add_generation_prompt: end with the beginning of the answer.
        enable_thinking: False begins the answer with an empty thinking block.
        use_tts_template: the answer will be spoken.
    """
    return _ext.apply_chat_template(
        [_message(m) for m in messages],
        tools=[_json(t) for t in tools],
        add_generation_prompt=add_generation_prompt,
        enable_thinking=enable_thinking,
        use_tts_template=use_tts_template,
    )


def system_prompt(
    mode: str = "default", language: str = "en", *, ref_audio: Any = None, variant: str = "hub"
) -> dict[str, Any]:
    """A system message whose content lists texts and, if given, the reference voice between them.

    Args:
        mode: omni, audio_assistant, audio_roleplay, voice_cloning, or any other for the default assistant.
        language: "zh"; anything else is English.
        ref_audio: the reference voice, put into the content as it is.
        variant: "hub" for the words of the released package, "server" for those of the public server.
    """
    if variant not in ("hub", "server"):
        raise InvalidArgumentError(f'variant is {variant!r}; "hub" and "server" are possible')
    prefix, has_audio, suffix = _ext.system_prompt(mode, language, ref_audio is not None, variant == "server")
    content: list[Any] = [prefix]
    if has_audio:
        content.append(ref_audio)
    if suffix is not None:
        content.append(suffix)
    return {"role": "system", "content": content}


def voice_prompt(ref_audio: Any, language: str = "en", persona: str | None = None) -> dict[str, Any]:
    """A system message: an assistant with the voice of a recording.

    Args:
        ref_audio: the recording, put into the content as it is.
        language: "zh"; anything else is English.
        persona: who the assistant is and how it behaves, in that language.
    """
    key = "zh" if language == "zh" else "en"
    words = _VOICE_SUFFIX[key]
    if persona is not None:
        words = _PERSONA[key] + ("" if key == "zh" else " ") + persona
    return {"role": "system", "content": [_VOICE_PREFIX[key], ref_audio, words]}


def read_aloud_messages(text: str, ref_audio: Any = None) -> list[dict[str, Any]]:
    """A dialogue whose answer is this text, with the voice of a recording. Temperature 0.1 suits it."""
    voice = [] if ref_audio is None else [_READ_PREFIX, ref_audio]
    return [
        {"role": "system", "content": [*voice, _READ_SUFFIX]},
        {"role": "user", "content": [f"{_READ} {text}"]},
    ]


def mimic_messages(audio: Any) -> list[dict[str, Any]]:
    """A dialogue whose answer repeats what a recording says. Temperature 0.1 suits it."""
    return [
        {"role": "system", "content": [_MIMIC_SYSTEM]},
        {"role": "user", "content": [_MIMIC, audio]},
    ]
