"""chat() against the reference: prompts, embeddings, logits, answers; and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import relative_rms
from PIL import Image
from videos import make_video

import omni
from omni.audio_io import load_audio
from omni.generation import PromptCache, row_keys
from omni.images import load_image
from omni.messages import parse_messages
from omni.multimodal import PromptOptions, build_prompt

# The reference and we compute in float32; the sums of each stage differ by their order, about 1e-6 of the
# result per layer, and the stored arrays are rounded to 16 bits of mantissa (4e-6).
TOLERANCE = 1e-4
CASES = [
    "text", "image", "slices", "audio", "mixed", "two_audio_one_message", "two_audio_two_messages",
]  # fmt: skip
GREEDY: dict[str, Any] = {"do_sample": False, "num_beams": 1, "max_new_tokens": 24}
TEXT = [{"role": "user", "content": "你好世界, hello world."}]


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> omni.MiniCPMO:
    return omni.MiniCPMO.from_pretrained(
        tiny_model_dir, quirks="reference", variant="server", n_ctx=2048, kv_type="f32", n_threads=1
    )


@pytest.fixture(scope="module")
def fixed(tiny_model_dir: Path) -> omni.MiniCPMO:
    return omni.MiniCPMO.from_pretrained(tiny_model_dir, n_ctx=512, kv_type="f32", n_threads=1)


@pytest.fixture(scope="module")
def reference(golden: Path) -> Any:
    return np.load(golden / "chat.npz")


def cases(golden: Path) -> dict[str, dict[str, Any]]:
    return {case["name"]: case for case in json.loads(str(np.load(golden / "chat.npz")["meta"]))}


def read_items(items: list[list[str]], golden: Path) -> list[Any]:
    readers: dict[str, Any] = {
        "text": str,
        "image": lambda name: load_image(golden / "inputs" / f"{name}.png"),
        "audio": lambda name: load_audio(golden / "inputs" / f"{name}.wav"),
    }
    return [readers[kind](value) for kind, value in items]


def messages_of(case: dict[str, Any], golden: Path) -> list[dict[str, Any]]:
    turns = case["messages"] or [["user", case["content"]]]
    return [{"role": role, "content": read_items(items, golden)} for role, items in turns]


def options_of(case: dict[str, Any]) -> dict[str, Any]:
    names = {"omni": "omni_mode", "tts": "use_tts_template"}
    return {names.get(name, name): value for name, value in case["options"].items()}


@pytest.mark.parametrize("name", CASES)
def test_prompt_equals_the_reference(model: omni.MiniCPMO, reference: Any, golden: Path, name: str) -> None:
    case = cases(golden)[name]
    messages = parse_messages(messages_of(case, golden))
    prompt = build_prompt(model.tokenizer, messages, PromptOptions(**options_of(case)))
    assert prompt.text == case["prompt"]
    assert prompt.ids.tolist() == reference[f"{name}_input_ids"].tolist()
    assert prompt.image_spans == [tuple(span) for span in reference[f"{name}_image_bound"].tolist()]
    assert prompt.audio_spans == [tuple(span) for span in reference[f"{name}_audio_bounds"].tolist()]

    embeds = model.embed_prompt(prompt)
    if f"{name}_inputs_embeds" in reference:  # the first 160 rows and the last 40 of the rest
        head, tail = reference[f"{name}_inputs_embeds"], reference[f"{name}_inputs_embeds_tail"]
        assert relative_rms(embeds[: len(head)], head) < TOLERANCE
        assert len(tail) == 0 or relative_rms(embeds[-len(tail) :], tail) < TOLERANCE
    else:
        rows = np.concatenate([embeds[first:end] for first, end in prompt.audio_spans])
        assert relative_rms(rows, reference[f"{name}_audio_embeds"]) < TOLERANCE

    # Teacher-forced: the reference's tokens go in, whatever the logits say.
    cache = model.llm.new_cache()
    hidden, logits = model.llm.forward(embeds, cache, "last", hidden="rows")
    ids = reference[f"{name}_greedy_ids"]
    if len(ids) > 1:
        more_hidden, more_logits = model.llm.forward(ids[:-1], cache, "all")
        hidden, logits = np.concatenate([hidden, more_hidden]), np.concatenate([logits, more_logits])
    wanted = reference[f"{name}_logits"]
    assert relative_rms(logits[: len(wanted)], wanted) < TOLERANCE
    assert relative_rms(hidden, reference[f"{name}_last_hidden"]) < TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_answer_equals_the_reference(model: omni.MiniCPMO, reference: Any, golden: Path, name: str) -> None:
    case = cases(golden)[name]
    stream, prompt = model.chat(
        msgs=messages_of(case, golden), stream=True, return_prompt=True, **GREEDY, **options_of(case)
    )
    assert prompt == case["prompt"]
    assert "".join(stream) == case["answer"]
    assert stream.result.ids == reference[f"{name}_greedy_ids"].tolist()
    assert stream.result.prompt_tokens == len(reference[f"{name}_input_ids"])


def test_system_prompts_equal_the_reference(model: omni.MiniCPMO, fixed: omni.MiniCPMO, golden: Path) -> None:
    voice = np.ones(1600, np.float32)
    stored = json.loads((golden / "tokenizer_cases.json").read_text(encoding="utf-8"))["system_prompts"]
    for case in stored:
        message = model.get_sys_prompt(voice, case["mode"], case["language"])
        shown = ["<audio>" if item is voice else item for item in message["content"]]
        assert (message["role"], shown) == ("system", case["content"])
    # the released package says it at more length
    assert "ModelBest" in fixed.get_sys_prompt(voice, "audio_assistant", "en")["content"][2]


def test_system_prompts_without_a_voice(fixed: omni.MiniCPMO, golden: Path) -> None:
    assert fixed.get_sys_prompt(mode="omni")["content"] == [""]
    content = fixed.get_sys_prompt(mode="audio_roleplay", language="zh")["content"]
    assert content == ["Use the <reserved_53> voice.", "假装你是上述音频中的人物，与我进行对话。"]
    with pytest.raises(omni.InvalidArgumentError, match="voice"):
        fixed.get_sys_prompt(mode="voice_cloning")
    voice = fixed.get_sys_prompt(golden / "inputs" / "w0.wav", "omni", ref_audio_max_ms=500)["content"][1]
    assert voice.shape == (8000,)
    with pytest.raises(omni.ModelFileError, match=r"nothing\.wav"):
        fixed.get_sys_prompt("nothing.wav", "omni")


def test_result_forms(model: omni.MiniCPMO) -> None:
    answer = model.chat(msgs=TEXT, **GREEDY)
    assert isinstance(answer, str)
    assert model.chat(msgs=json.dumps(TEXT), **GREEDY) == answer
    assert model.chat(msgs=[TEXT, TEXT], **GREEDY) == [answer, answer]
    text, prompt = model.chat(msgs=TEXT, return_prompt=True, **GREEDY)
    assert text == answer
    assert prompt.startswith("<|im_start|>user\n你好世界")
    assert "".join(model.chat(msgs=TEXT, stream=True, **GREEDY)) == answer


def test_thinking_leaves_the_block_to_the_model(model: omni.MiniCPMO) -> None:
    one_token: dict[str, Any] = GREEDY | {"max_new_tokens": 1}
    prompts = [
        model.chat(msgs=TEXT, enable_thinking=thinking, return_prompt=True, **one_token)[1]
        for thinking in (False, True)
    ]
    assert prompts[0] == prompts[1] + "<think>\n\n</think>\n\n"


def test_seeds_decide(model: omni.MiniCPMO) -> None:
    options: dict[str, Any] = {
        "msgs": TEXT,
        "max_new_tokens": 12,
        "temperature": 5.0,
        "top_k": 0,
        "top_p": 1.0,
    }
    for beams in (1, 3):
        answers = [model.chat(**options, num_beams=beams, seed=seed) for seed in (1, 1, 2)]
        assert answers[0] == answers[1] != answers[2]
    assert len({model.chat(**options, num_beams=1) for _ in range(4)}) > 1


def test_temperature_0_is_greedy(model: omni.MiniCPMO) -> None:
    assert model.chat(msgs=TEXT, num_beams=1, max_new_tokens=24, temperature=0) == model.chat(
        msgs=TEXT, **GREEDY
    )


def test_beams_find_a_likelier_answer(model: omni.MiniCPMO) -> None:
    """Three beams against a search written down here, on logits computed from scratch for every candidate."""
    prompt = build_prompt(model.tokenizer, parse_messages(TEXT))
    embeds = model.embed_prompt(prompt)

    def log_probs(ids: list[int]) -> np.ndarray:
        rows = np.concatenate([embeds, model.llm.embed(ids)]) if ids else embeds
        _, logits = model.llm.forward(rows, model.llm.new_cache(), "last")
        scores = logits[0].astype(np.float64)
        scores -= np.log(np.exp(scores - scores.max()).sum()) + scores.max()
        scores[list(set(ids))] *= 1.2
        return scores

    stops = set(model._stop_ids)
    running: list[tuple[float, list[int]]] = [(0.0, [])]
    done: list[tuple[float, list[int]]] = []
    for step in range(1, 7):
        found = [
            (score + float(lp), [*ids, int(token)])
            for score, ids in running
            for token, lp in enumerate(log_probs(ids))
        ]
        found = sorted(found, key=lambda item: -item[0])[:9]
        ends = [ids[-1] in stops or step == 6 for _, ids in found]
        done += [(score / step, ids) for (score, ids), end in zip(found[:3], ends[:3], strict=True) if end]
        done = sorted(done, key=lambda item: -item[0])[:3]
        running = [item for item, end in zip(found, ends, strict=True) if not end][:3]
    expected = [i for i in max(done)[1] if i not in stops]
    answer = model.chat(msgs=TEXT, do_sample=False, max_new_tokens=6)
    assert answer == model.tokenizer.decode(expected)


def test_exclamation_marks_are_kept_unless_the_reference_is_wanted(
    model: omni.MiniCPMO, fixed: omni.MiniCPMO
) -> None:
    mark = model.tokenizer.required_id("!")
    assert mark == 0
    result = omni.generation.Generation()
    ids = [*model.tokenizer.encode("Ab"), mark, model.tokenizer.required_id("<|im_end|>")]
    assert "".join(fixed._text(iter(ids), result)) == "Ab!"
    assert "".join(model._text(iter(ids), result)) == "Ab"


def test_text_ends_at_the_end_of_speech(fixed: omni.MiniCPMO) -> None:
    result = omni.generation.Generation()
    ids = fixed.tokenizer.encode("<|im_start|>spoken<|tts_eos|><|im_end|>")
    assert "".join(fixed._text(iter(ids), result)) == "spoken"
    assert result.finish == "stop"
    thinking = fixed.tokenizer.encode("<think>a</think>b<|im_end|>")
    assert "".join(fixed._text(iter(thinking), result)) == "<think>a</think>b"


def test_long_prompts_are_refused(fixed: omni.MiniCPMO) -> None:
    msgs = [{"role": "user", "content": "word " * 600}]
    with pytest.raises(omni.InvalidArgumentError, match="max_inp_length = 100"):
        fixed.chat(msgs=TEXT * 10, max_inp_length=100)
    with pytest.raises(omni.ContextFullError, match="512 positions"):
        fixed.chat(msgs=msgs)


def test_answers_end_with_the_context(tiny_model_dir: Path) -> None:
    small = omni.MiniCPMO.from_pretrained(tiny_model_dir, n_ctx=32, kv_type="f32", n_threads=1)
    options: dict[str, Any] = {"do_sample": False, "min_new_tokens": 100}
    stream = small.chat(msgs=TEXT, stream=True, **options)
    assert "".join(stream)
    # 26 rows of prompt leave 6; a 7th token needs none
    assert (stream.result.prompt_tokens, len(stream.result.ids), stream.result.finish) == (26, 7, "length")
    assert small.chat(msgs=TEXT, **options)


def test_a_kept_context_gives_the_same_answers(tiny_model_dir: Path) -> None:
    kept = omni.MiniCPMO.from_pretrained(tiny_model_dir, n_ctx=512, kv_type="f32", n_threads=1)
    dialogue: list[dict[str, Any]] = [{"role": "system", "content": "Be brief."}]
    reused = []
    for question in ("one", "two", "three", "two"):
        dialogue.append({"role": "user", "content": question})
        plain = kept.chat(msgs=dialogue, **GREEDY)
        stream = kept.chat(msgs=dialogue, stream=True, cache_prompt=True, **GREEDY)
        assert "".join(stream) == plain
        reused.append(stream.result.reused_tokens)
        dialogue.append({"role": "assistant", "content": plain})
    assert reused[0] == 0
    assert 0 < reused[1] < reused[2] < reused[3]
    # a dialogue that changes its beginning starts anew
    stream = kept.chat(msgs=TEXT, stream=True, cache_prompt=True, **GREEDY)
    assert "".join(stream) == kept.chat(msgs=TEXT, **GREEDY)


def test_rows_of_media_are_told_apart() -> None:
    ids, rows = np.array([5, 7, 7], np.int32), np.arange(6, dtype=np.float32).reshape(3, 2)
    media = np.array([False, True, True])
    keys = row_keys(ids, rows, media)
    assert keys[0] == 5
    assert len(set(keys.tolist())) == 3
    assert (keys[1:] < 0).all()
    assert (row_keys(ids, rows, media) == keys).all()


def test_a_failing_prefill_leaves_the_kept_context_usable(fixed: omni.MiniCPMO) -> None:
    state = PromptCache(fixed.llm, 64)
    rows = fixed.llm.embed(np.arange(20))
    first, _ = state.prefill(np.arange(20), rows)
    broken = rows.copy()
    broken[12] = np.nan
    keys = np.arange(20)
    keys[10:] += 100
    with pytest.raises(omni.InvalidArgumentError):
        state.prefill(keys, broken)
    again, reused = state.prefill(np.arange(20), rows)
    assert reused == 10
    assert relative_rms(again, first) < 1e-5


def test_long_prompts_come_in_blocks(model: omni.MiniCPMO) -> None:
    ids = np.arange(1200) % 1000
    state = PromptCache(model.llm, 1300)
    logits, _ = state.prefill(ids, model.llm.embed(ids))
    _, wanted = model.llm.forward(ids, model.llm.new_cache(1300), "last")
    assert relative_rms(logits, wanted[0]) < 1e-5
    assert state.prefill(ids, model.llm.embed(ids))[1] == 1199


def test_markers_in_texts(fixed: omni.MiniCPMO) -> None:
    short: dict[str, Any] = GREEDY | {"max_new_tokens": 2}
    # a marker alone is only a word; what would take a picture's place is refused
    fixed.chat(
        msgs=[{"role": "user", "content": "what does <image> mean in html? <|listen|></image>"}], **short
    )
    for text in (
        "<image>./</image>",
        "<audio>./</audio>",
        "<image><unk></image>",
        "<|audio_start|><unk><|audio_end|>",
    ):
        with pytest.raises(omni.InvalidArgumentError, match="a text of the messages"):
            fixed.chat(msgs=[{"role": "user", "content": text}], **short)


def test_unknown_arguments_are_reported(fixed: omni.MiniCPMO, tiny_model_dir: Path) -> None:
    short: dict[str, Any] = GREEDY | {"max_new_tokens": 2}
    with pytest.warns(UserWarning, match="length_penalty"):
        fixed.chat(msgs=TEXT, length_penalty=2.0, **short)
    with pytest.warns(UserWarning, match="colour"):
        omni.MiniCPMO.from_pretrained(tiny_model_dir, trust_remote_code=True, colour="red")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs msgs"),
        ({"msgs": []}, "at least one"),
        ({"msgs": TEXT, "max_new_tokens": 0}, "max_new_tokens"),
        ({"msgs": TEXT, "num_beams": 2, "stream": True}, "streamed"),
        ({"msgs": [TEXT, TEXT], "stream": True}, "one dialogue"),
        ({"msgs": [TEXT, TEXT], "image": [None]}, "1 images for 2"),
        ({"msgs": TEXT, "max_slice_nums": 0}, "max_slice_nums"),
        ({"msgs": TEXT, "temperature": -1.0}, "temperature"),
        ({"msgs": TEXT, "top_p": float("nan")}, "top"),
    ],
)
def test_unusable_arguments(fixed: omni.MiniCPMO, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(omni.InvalidArgumentError, match=message):
        fixed.chat(**arguments)


def test_what_pytorch_programs_call_does_nothing(fixed: omni.MiniCPMO) -> None:
    assert fixed.eval().cuda().to("cuda") is fixed


def test_from_pretrained_errors(tmp_path: Path, tiny_model_dir: Path) -> None:
    with pytest.raises(omni.ModelFileError, match="no such file"):
        omni.MiniCPMO.from_pretrained(tmp_path / "nothing")
    with pytest.raises(omni.ModelFileError, match="holds no language model"):
        omni.MiniCPMO.from_pretrained(tmp_path)
    with pytest.raises(omni.InvalidArgumentError, match="variant"):
        omni.MiniCPMO.from_pretrained(tiny_model_dir, variant="other")  # type: ignore[arg-type]
    with pytest.raises(omni.InvalidArgumentError, match="quirks"):
        omni.MiniCPMO.from_pretrained(tiny_model_dir, quirks="some")  # type: ignore[arg-type]


def test_missing_parts_are_named(tiny_model_dir: Path, tmp_path: Path, golden: Path) -> None:
    llm = next(tiny_model_dir.glob("*.gguf"))
    (tmp_path / llm.name).write_bytes(llm.read_bytes())
    alone = omni.MiniCPMO.from_pretrained(tmp_path)
    assert alone.chat(msgs=TEXT, **GREEDY)
    picture = load_image(golden / "inputs" / "small.png")
    for name, item in (("vision", picture), ("audio", np.zeros(16000, np.float32))):
        with pytest.raises(omni.ModelFileError, match=f"needs the {name} encoder"):
            alone.chat(msgs=[{"role": "user", "content": [item]}])
    unloaded = omni.MiniCPMO.from_pretrained(tiny_model_dir, init_vision=False, init_audio=False)
    with pytest.raises(omni.InvalidArgumentError, match=r"call init_vision\(\)"):
        unloaded.chat(msgs=[{"role": "user", "content": [picture]}])


# ---- pictures and sound ----


def inputs(golden: Path) -> tuple[Any, Any]:
    return load_image(golden / "inputs" / "small.png"), load_audio(golden / "inputs" / "w0.wav")


def test_image_argument_goes_before_the_first_text(fixed: omni.MiniCPMO, golden: Path) -> None:
    picture, _ = inputs(golden)
    wanted = fixed.chat(msgs=[{"role": "user", "content": [picture, "what"]}], max_slice_nums=1, **GREEDY)
    short = [{"role": "user", "content": "what"}]
    assert fixed.chat(Image.fromarray(picture), short, max_slice_nums=1, **GREEDY) == wanted
    assert fixed.chat([picture, None], [short, TEXT], max_slice_nums=1, **GREEDY) == [
        wanted,
        fixed.chat(msgs=TEXT, **GREEDY),
    ]
    with pytest.warns(UserWarning, match="image= is ignored"):
        fixed.chat(picture, [{"role": "user", "content": [picture, "what"]}], max_slice_nums=1, **GREEDY)


def test_given_rows_take_the_encoders_place(fixed: omni.MiniCPMO, golden: Path) -> None:
    picture, _ = inputs(golden)
    msgs = [{"role": "user", "content": [picture, "what"]}]
    assert fixed.vision is not None
    rows = fixed.vision.encode(picture, 1)
    wanted = fixed.chat(msgs=msgs, max_slice_nums=1, **GREEDY)
    assert fixed.chat(msgs=msgs, max_slice_nums=1, vision_hidden_states=rows, **GREEDY) == wanted
    with pytest.raises(omni.InvalidArgumentError, match="32 rows; the prompt needs 64"):
        fixed.chat(msgs=msgs, max_slice_nums=1, vision_hidden_states=rows[:, :32], **GREEDY)


def test_clips_of_different_messages_do_not_see_each_other(fixed: omni.MiniCPMO, golden: Path) -> None:
    long, short = load_audio(golden / "inputs" / "w1.wav"), inputs(golden)[1]
    msgs = [{"role": role, "content": [clip]} for role, clip in (("user", short), ("assistant", long))]
    prompt = build_prompt(fixed.tokenizer, parse_messages(msgs))
    embeds = fixed.embed_prompt(prompt)
    assert fixed.audio is not None
    for (first, end), clip in zip(prompt.audio_spans, (short, long), strict=True):
        assert (embeds[first:end] == fixed.audio.encode(clip)).all()


def test_clips_of_a_message_are_one_unless_told_otherwise(fixed: omni.MiniCPMO, golden: Path) -> None:
    _, clip = inputs(golden)
    prompt = build_prompt(fixed.tokenizer, parse_messages([{"role": "user", "content": [clip, "and", clip]}]))
    merged = fixed.embed_prompt(prompt)
    apart = fixed.embed_prompt(prompt, merge_clips=False)
    second = slice(*prompt.audio_spans[1])
    assert (merged[second] != apart[second]).any()
    assert fixed.audio is not None
    assert (apart[second] == fixed.audio.encode(clip)).all()


@pytest.mark.parametrize("samples", [1, 100, 1441, 16001])
def test_many_short_clips(fixed: omni.MiniCPMO, samples: int) -> None:
    """Merged, such clips can make fewer rows than alone."""
    clips = [np.full(samples, 0.1, np.float32)] * 4
    assert isinstance(fixed.chat(msgs=[{"role": "user", "content": clips}], **GREEDY), str)


def test_a_video_with_sound(fixed: omni.MiniCPMO, tmp_path: Path) -> None:
    video = make_video(tmp_path / "v.mkv", 20, 10, sound_seconds=2, size=(64, 48))
    item = {"type": "video_url", "video_url": {"url": str(video), "stack_frames": 2}}
    msgs = [{"role": "user", "content": [item, "what happens"]}]
    stream, prompt = fixed.chat(
        msgs=msgs, stream=True, return_prompt=True, omni_mode=True, max_slice_nums=1, **GREEDY
    )
    second = "<image>./</image><audio>./</audio><image>./</image>"
    assert f"user\n{second}{second}what happens" in prompt
    assert prompt.endswith("<|tts_bos|>")
    assert "".join(stream)


def test_a_kept_context_tells_pictures_apart(tiny_model_dir: Path, golden: Path) -> None:
    kept = omni.MiniCPMO.from_pretrained(tiny_model_dir, n_ctx=512, kv_type="f32", n_threads=1)
    pictures = [load_image(golden / "inputs" / f"{name}.png") for name in ("small", "square", "small")]
    for picture in pictures:
        msgs = [{"role": "user", "content": ["before", picture, "what"]}]
        options: dict[str, Any] = GREEDY | {"max_slice_nums": 1, "use_image_id": False}
        stream = kept.chat(msgs=msgs, stream=True, cache_prompt=True, **options)
        assert "".join(stream) == kept.chat(msgs=msgs, **options)
        assert stream.result.reused_tokens < 10  # what stands before the picture
    again = kept.chat(msgs=msgs, stream=True, cache_prompt=True, **options)
    assert again.result.reused_tokens == again.result.prompt_tokens - 1


def test_pictures_are_encoded_once(fixed: omni.MiniCPMO, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8)
    other = picture.copy()
    other[0, 0, 0] ^= 1
    assert fixed.vision is not None
    encode, seen = fixed.vision.encode, []

    def count(pixels: Any, max_slice_nums: int) -> Any:
        seen.append((pixels.sum(), max_slice_nums))
        return encode(pixels, max_slice_nums)

    monkeypatch.setattr(fixed.vision, "encode", count)
    for image, slices in ((picture, 1), (picture, 1), (other, 1), (picture, 2), (other, 1)):
        fixed.chat(msgs=[{"role": "user", "content": [image]}], max_slice_nums=slices, **GREEDY)
    assert len(seen) == 3


def test_the_memory_for_encodings_is_bounded() -> None:
    encodings = omni.encodings.EncodingCache(max_bytes=1000)
    calls = []
    for number in (0, 1, 2, 3, 0, 3):

        def encode(number: int = number) -> Any:
            calls.append(number)
            return np.zeros(100, np.float32)

        encodings.get((np.array([number]), 0), encode)
    assert calls == [0, 1, 2, 3, 0]  # two of 400 bytes fit


def test_encoders_of_another_model(tiny_model_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model_dir, tmp_path, dirs_exist_ok=True)
    [vision] = (tmp_path / "vision").glob("*.gguf")
    vision.write_bytes(vision.read_bytes()[:5000])
    with pytest.raises(omni.FormatError, match="vision"):
        omni.MiniCPMO.from_pretrained(tmp_path)
    shutil.copy(next(tmp_path.glob("*.gguf")), vision)
    with pytest.raises(omni.OmniError, match="vision"):
        omni.MiniCPMO.from_pretrained(tmp_path)
    assert omni.MiniCPMO.from_pretrained(tmp_path, init_vision=False).chat(msgs=TEXT, **GREEDY)
