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
    "image_placeholder",
    "system_prompt",
]


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
