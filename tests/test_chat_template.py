"""Prompts against the reference's texts and ids."""

from __future__ import annotations

import json
from typing import Any

import jinja2
import pytest
import tiny_vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_vocabulary import GOLDEN

import omni
from omni.prompts import (
    apply_chat_template,
    audio_placeholder,
    audio_rows,
    default_duplex_prompt,
    image_placeholder,
    system_prompt,
)

CASES = json.loads((GOLDEN / "tokenizer_cases.json").read_text(encoding="utf-8"))
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"place": "城"}}}
AUDIO = object()


@pytest.fixture(scope="module")
def reference() -> jinja2.Template:
    """The checkpoint's own template."""
    config = json.loads((GOLDEN / "tiny" / "tokenizer_config.json").read_text(encoding="utf-8"))
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(config["chat_template"])


@pytest.mark.parametrize("case", CASES["chat_template"], ids=lambda c: str(len(c["prompt"])))
def test_reference_prompts(case: dict[str, Any]) -> None:
    assert apply_chat_template(case["messages"], **case["options"]) == case["prompt"]


CONTENT = st.sampled_from(
    [
        "",
        "a",
        "\n你好\n",
        "<think>\nx\n\n</think>\n\nb",
        "<think></think>",
        "</think>c</think>\nd",
        "<think>y",
        "<tool_response>\nr\n</tool_response>",
        "\nd\n",
    ]
)
CALLS = st.lists(
    st.sampled_from(
        [
            {"name": "f", "arguments": {"x": "é"}},
            {"type": "function", "function": {"name": "g", "arguments": '{"y":1}'}},
        ]
    ),
    max_size=2,
)
MESSAGES = st.lists(
    st.builds(
        lambda role, content: {"role": role, "content": content},
        st.sampled_from(["user", "system", "tool"]),
        CONTENT,
    )
    | st.builds(
        lambda content, reasoning, calls: {
            "role": "assistant",
            "content": content,
            "reasoning_content": reasoning,
            "tool_calls": calls,
        },
        CONTENT,
        st.sampled_from([None, "", "\nwhy\n"]),
        CALLS,
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=400, deadline=None)
@given(
    messages=MESSAGES,
    tools=st.sampled_from([[], [TOOL], [TOOL, TOOL]]),
    generate=st.booleans(),
    thinking=st.sampled_from([None, False, True]),
    tts=st.booleans(),
)
def test_equals_the_template(
    reference: jinja2.Template, messages: Any, tools: Any, generate: bool, thinking: bool | None, tts: bool
) -> None:
    extra = {} if thinking is None else {"enable_thinking": thinking}
    expected = reference.render(
        messages=messages, tools=tools, add_generation_prompt=generate, use_tts_template=tts, **extra
    )
    prompt = apply_chat_template(
        messages, tools=tools, add_generation_prompt=generate, use_tts_template=tts, enable_thinking=thinking
    )
    assert prompt == expected


def test_bad_messages() -> None:
    with pytest.raises(omni.InvalidArgumentError, match="empty"):
        apply_chat_template([])
    with pytest.raises(omni.InvalidArgumentError, match='message 1 has the role "narrator"'):
        apply_chat_template([{"role": "user", "content": "a"}, {"role": "narrator", "content": "b"}])
    with pytest.raises(omni.InvalidArgumentError, match="content"):
        apply_chat_template([{"role": "user", "content": 3}])


@pytest.mark.parametrize(
    ("samples", "rows"), [(16000, 10), (8000, 5), (32000, 20), (480000, 300), (1280, 0), (0, 0), (16560, 10)]
)
def test_audio_rows(samples: int, rows: int) -> None:
    assert audio_rows(samples) == rows
    assert audio_placeholder(samples) == "<|audio_start|>" + "<unk>" * rows + "<|audio_end|>"


def test_audio_rows_equal_the_formula() -> None:
    for samples in range(0, 40000, 37):
        frames = -(-samples // 160)
        assert audio_rows(samples) == max(0, ((frames - 1) // 2 + 1 - 5) // 5 + 1)


def test_split_audio() -> None:
    spans = [10, 10, 5]
    expected = "".join("<|audio_start|>" + "<unk>" * n + "<|audio_end|>" for n in spans)
    assert audio_placeholder(40000, split=True) == expected


def test_image_placeholder() -> None:
    picture, piece = "<image>" + "<unk>" * 64 + "</image>", "<slice>" + "<unk>" * 64 + "</slice>"
    assert image_placeholder() == picture
    assert image_placeholder(12) == "<image_id>12</image_id>" + picture
    assert (
        image_placeholder(0, 2, 3) == f"<image_id>0</image_id>{picture}{piece * 2}\n{piece * 2}\n{piece * 2}"
    )
    assert (
        image_placeholder(None, 1, 1, 3)
        == "<image>" + "<unk>" * 3 + "</image><slice>" + "<unk>" * 3 + "</slice>"
    )
    with pytest.raises(omni.InvalidArgumentError, match="grid"):
        image_placeholder(0, -1, 2)
    with pytest.raises(omni.InvalidArgumentError, match="embeddings"):
        image_placeholder(0, embeddings=0)


def test_ids_of_the_worked_examples() -> None:
    """The lengths that the published examples have; the ids of the words depend on the vocabulary."""
    tokenizer = tiny_vocabulary.tokenizer()
    unk = tokenizer.required_id("<unk>")
    content = image_placeholder(0, 2, 3) + "\nWhat is in the image?"
    prompt = apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, enable_thinking=False
    )
    ids = tokenizer.encode(prompt)
    assert ids.count(unk) == 7 * 64
    assert ids[3] == tokenizer.id_of("<image_id>")
    assert ids[-4:] == [tokenizer.id_of(t) for t in ("<think>", "\n\n", "</think>", "\n\n")]


@pytest.mark.parametrize("case", CASES["system_prompts"], ids=lambda c: f"{c['mode']}-{c['language']}")
def test_system_prompts(case: dict[str, Any]) -> None:
    message = system_prompt(case["mode"], case["language"], ref_audio=AUDIO, variant="server")
    content = ["<audio>" if part is AUDIO else part for part in message["content"]]
    assert content == case["content"]
    if (case["mode"], case["language"]) != ("audio_assistant", "en"):
        assert message == system_prompt(case["mode"], case["language"], ref_audio=AUDIO)


def test_system_prompts_of_the_released_package() -> None:
    content = system_prompt("audio_assistant", "en", ref_audio=AUDIO)["content"]
    assert content[0] == "Clone the voice in the provided audio prompt."
    assert content[2].endswith("You are a helpful assistant developed by ModelBest: MiniCPM-Omni.")
    assert default_duplex_prompt() == "Streaming Omni Conversation."


def test_system_prompts_without_a_voice() -> None:
    assert system_prompt("omni")["content"] == [""]
    roleplay = system_prompt("audio_roleplay", "zh")["content"]
    assert roleplay == ["Use the <reserved_53> voice.", "假装你是上述音频中的人物，与我进行对话。"]
    with pytest.raises(omni.InvalidArgumentError, match="reference voice"):
        system_prompt("voice_cloning")
    with pytest.raises(omni.InvalidArgumentError, match="variant"):
        system_prompt(variant="other")
