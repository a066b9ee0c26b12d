"""Prompts: where pictures and sound go, in every form that the published samples use."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import tiny_vocabulary
from hypothesis import given
from hypothesis import strategies as st

import omni
from omni import _ext
from omni.messages import parse_messages
from omni.multimodal import PromptOptions, build_prompt, splice

START, END = "<|im_start|>", "<|im_end|>\n"
ANSWER = f"{START}assistant\n<think>\n\n</think>\n\n"
PICTURE = np.zeros((448, 448, 3), np.uint8)
SECOND = np.zeros(16000, np.float32)


@pytest.fixture(scope="module")
def tokenizer() -> omni.Tokenizer:
    return tiny_vocabulary.tokenizer(bos=1198, eos=1199, pad=1197)


def prompt_text(tokenizer: omni.Tokenizer, msgs: list[dict[str, Any]], **options: Any) -> str:
    """The prompt's tokens as text, runs of <unk> as their number."""
    prompt = build_prompt(tokenizer, parse_messages(msgs), PromptOptions(**options))
    text = tokenizer.decode(prompt.ids.tolist())
    for spans, rows in ((prompt.image_spans, 64), (prompt.audio_spans, None)):
        for first, end in spans:
            assert rows is None or end - first == rows
            assert set(prompt.ids[first:end].tolist()) == {tokenizer.required_id("<unk>")}
    return re.sub("(<unk>)+", lambda found: f"[{len(found.group()) // 5}]", text)


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def test_two_pictures(tokenizer: omni.Tokenizer) -> None:
    text = prompt_text(tokenizer, [user(PICTURE, PICTURE, "Compare.")])
    pictures = [f"<image_id>{i}</image_id><image>[64]</image>\n" for i in (0, 1)]
    assert text == f"{START}user\n{''.join(pictures)}Compare.{END}{ANSWER}"


def test_slices_of_a_large_picture(tokenizer: omni.Tokenizer) -> None:
    tall = np.zeros((1344, 896, 3), np.uint8)  # 2 columns, 3 rows
    row = "<slice>[64]</slice>" * 2
    text = prompt_text(tokenizer, [user(tall, "x")], use_image_id=False)
    assert text == f"{START}user\n<image>[64]</image>{row}\n{row}\n{row}\nx{END}{ANSWER}"
    assert "<slice>" not in prompt_text(tokenizer, [user(tall, "x")], max_slice_nums=1)


def test_few_shot_numbers_go_on(tokenizer: omni.Tokenizer) -> None:
    ask = user(PICTURE, "date")
    text = prompt_text(tokenizer, [ask, {"role": "assistant", "content": ["2023.08.04"]}, ask])
    assert text == (
        f"{START}user\n<image_id>0</image_id><image>[64]</image>\ndate{END}"
        f"{START}assistant\n2023.08.04{END}"
        f"{START}user\n<image_id>1</image_id><image>[64]</image>\ndate{END}{ANSWER}"
    )


def test_voice_cloning_with_line_breaks_and_without(tokenizer: omni.Tokenizer) -> None:
    voice = np.zeros(32000, np.float32)
    msgs = [{"role": "system", "content": ["before", voice, "after"]}, user(SECOND)]
    spoken = f"{ANSWER}<|tts_bos|>"
    clip = "<|audio_start|>[10]<|audio_end|>"
    assert prompt_text(tokenizer, msgs) == (
        f"{START}system\nbefore\n<|audio_start|>[20]<|audio_end|>\nafter{END}{START}user\n{clip}{END}{spoken}"
    )
    assert prompt_text(tokenizer, msgs, omni_mode=True) == (
        f"{START}system\nbefore<|audio_start|>[20]<|audio_end|>after{END}{START}user\n{clip}{END}{spoken}"
    )


def test_interleaved_video(tokenizer: omni.Tokenizer) -> None:
    msgs = [user(PICTURE, SECOND, PICTURE, SECOND)]
    unit = "<image>[64]</image><|audio_start|>[10]<|audio_end|>"
    text = prompt_text(tokenizer, msgs, omni_mode=True, use_image_id=False)
    assert text == f"{START}user\n{unit}{unit}{END}{ANSWER}<|tts_bos|>"
    assert "<image_id>1</image_id><image>" in prompt_text(tokenizer, msgs, omni_mode=True)


def test_clips_in_groups(tokenizer: omni.Tokenizer) -> None:
    text = prompt_text(tokenizer, [user(np.zeros(40000, np.float32), "x")], stream_input=True)
    groups = "".join(f"<|audio_start|>[{n}]<|audio_end|>" for n in (10, 10, 5))
    assert f"user\n{groups}x" in text


@pytest.mark.parametrize(
    ("samples", "rows"), [(1, 1), (1281, 1), (1600, 1), (16001, 10), (480001, 300), (31 * 16000, 310)]
)
def test_rows_of_a_clip(tokenizer: omni.Tokenizer, samples: int, rows: int) -> None:
    assert f">[{rows}]<" in prompt_text(tokenizer, [user(np.zeros(samples, np.float32))])


def test_ten_pictures_have_numbers_of_two_digits(tokenizer: omni.Tokenizer) -> None:
    text = prompt_text(tokenizer, [user(*[PICTURE] * 11)])
    assert text.count("<image>[64]</image>") == 11
    assert "<image_id>10</image_id>" in text


def test_thinking_and_speech(tokenizer: omni.Tokenizer) -> None:
    assert prompt_text(tokenizer, [user("x")], enable_thinking=True).endswith(f"{START}assistant\n")
    assert prompt_text(tokenizer, [user("x")], use_tts_template=True).endswith(f"{ANSWER}<|tts_bos|>")


def test_a_later_thought_with_a_picture_is_an_error(tokenizer: omni.Tokenizer) -> None:
    thought = {"role": "assistant", "content": ["<think>", PICTURE, "</think>yes"]}
    with pytest.raises(omni.InvalidArgumentError, match="reasoning that the template drops"):
        prompt_text(tokenizer, [user("x"), thought, user("y")])


def test_given_reasoning_follows_the_last_question_only(tokenizer: omni.Tokenizer) -> None:
    answer = {"role": "assistant", "content": "yes", "reasoning_content": "because"}
    text = prompt_text(tokenizer, [user("x"), answer])
    assert f"{START}assistant\n<think>\nbecause\n</think>\n\nyes{END}" in text
    assert "because" not in prompt_text(tokenizer, [user("x"), answer, user("y")])


ITEMS = st.lists(
    st.sampled_from(["text", "<image>", "two\nlines", PICTURE, SECOND, SECOND[:9000]]), max_size=6
)


@given(st.lists(ITEMS, min_size=1, max_size=4), st.booleans(), st.booleans())
def test_every_row_has_its_place(
    tokenizer: omni.Tokenizer, turns: Any, omni_mode: bool, stream: bool
) -> None:
    roles = ["user", "assistant"] * 2
    msgs = [{"role": role, "content": items} for role, items in zip(roles, turns, strict=False)]
    options = PromptOptions(omni_mode=omni_mode, stream_input=stream, max_inp_length=100000)
    prompt = build_prompt(tokenizer, parse_messages(msgs), options)
    spans = [*prompt.image_spans, *prompt.audio_spans]
    places = [place for first, end in spans for place in range(first, end)]
    is_unk = np.flatnonzero(prompt.ids == tokenizer.required_id("<unk>"))
    assert sorted(places) == is_unk.tolist()
    rows = sum(_ext.audio_rows(len(clip)) for clips in prompt.clips for clip in clips)
    assert len(places) == 64 * len(prompt.pictures) + rows


@pytest.mark.parametrize("count", [3, 5, 9])
def test_splice_fills_what_there_is(count: int) -> None:
    embeds = np.zeros((10, 2), np.float32)
    rows = np.arange(1, 1 + 2 * count, dtype=np.float32).reshape(count, 2)
    splice(embeds, [(1, 3), (6, 9)], rows)
    filled = [1, 2, 6, 7, 8][:count]
    assert (embeds[filled] == rows[:5]).all()
    assert not np.delete(embeds, filled, axis=0).any()
