"""Simplex streaming: the rules without a model, and sessions against the reference."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import relative_rms
from numpy.typing import NDArray

import omni
from omni.audio_io import load_audio
from omni.images import load_image
from omni.simplex import TextGroup, Window, answer_groups, answer_opener

# The reference and we compute in float32; the sums of each stage differ by their order, about 1e-6 of the
# result per layer, and the stored arrays are rounded to 16 bits of mantissa (4e-6).
TOLERANCE = 1e-4
STOP = 99
Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> omni.MiniCPMO:
    return omni.MiniCPMO.from_pretrained(
        tiny_model_dir, quirks="reference", n_ctx=1024, kv_type="f32", n_threads=1
    )


@pytest.fixture(scope="module")
def fixed(tiny_model_dir: Path) -> omni.MiniCPMO:
    return omni.MiniCPMO.from_pretrained(tiny_model_dir, n_ctx=256, kv_type="f32", n_threads=1)


@pytest.fixture(scope="module")
def reference(golden: Path) -> Any:
    return np.load(golden / "simplex.npz")


@pytest.fixture(scope="module")
def steps(reference: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(str(reference["meta"]))
    return found


@pytest.fixture(scope="module")
def seconds(golden: Path) -> list[Floats]:
    wav = load_audio(golden / "inputs" / "long.wav")
    return [wav[16000 * i : 16000 * (i + 1)] for i in range(len(wav) // 16000)]


def message_of(
    step: dict[str, Any], model: omni.MiniCPMO, golden: Path, seconds: list[Floats]
) -> dict[str, Any]:
    if step["role"] == "system":
        return model.get_sys_prompt(golden / "inputs" / "ref.wav", mode="omni")
    picture = [load_image(golden / "inputs" / f"{step['image']}.png")] if step["image"] else []
    return {"role": "user", "content": [*picture, seconds[step["second"]]]}


# ---- parity ----


def test_sessions_equal_the_reference(
    model: omni.MiniCPMO,
    reference: Any,
    steps: list[dict[str, Any]],
    golden: Path,
    seconds: list[Floats],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    embedded: list[Any] = []
    forwarded: list[Floats] = []
    embed, forward = model.embed_prompt, model.llm.forward

    def recorded_forward(rows: Any, *args: Any, **kwargs: Any) -> Any:
        forwarded.append(np.asarray(rows))
        return forward(rows, *args, **kwargs)

    monkeypatch.setattr(model, "embed_prompt", lambda prompt: embedded.append(prompt) or embed(prompt))
    monkeypatch.setattr(model.llm, "forward", recorded_forward)
    model.reset_session()
    number = 0
    for step in steps:
        if step["kind"] == "prefill":
            text = model.streaming_prefill("s", [message_of(step, model, golden, seconds)])
            assert text == step["prompt"]
            assert embedded[-1].ids.tolist() == reference[f"prefill{number}_ids"].tolist()
            spans = [list(span) for span in embedded[-1].audio_spans]
            assert spans == reference[f"prefill{number}_audio_bounds"].tolist()
            assert relative_rms(forwarded[-1], reference[f"prefill{number}_embeds"]) < TOLERANCE
            number += 1
        else:
            turn = step["turn"]
            groups = groups_of(model, step["options"])
            tokens = [group.ids for group in groups]
            sampled = [token for chunk in step["chunk_tokens"] for token in chunk]
            given = [token for ids in tokens for token in ids]
            # At the limit the last one was sampled, and not read.
            assert given == (sampled if groups[-1].is_last else sampled[:-1])
            for i, group in enumerate(groups):
                assert relative_rms(group.hidden, reference[f"t{turn}_hidden{i}"]) < TOLERANCE
        assert model._simplex is not None
        assert model._simplex.length == step["cache"]
        assert model._simplex._window.length == step["cache"]


def groups_of(model: omni.MiniCPMO, options: dict[str, Any]) -> list[TextGroup]:
    assert model._simplex is not None
    sampling = {k: v for k, v in options.items() if k not in ("max_new_tokens", "do_sample")}
    return list(
        model._simplex.generate(
            {"greedy": True, "top_k": 100, "top_p": 0.8, "seed": 0} | sampling,
            max_new_tokens=options["max_new_tokens"],
        )
    )


def test_text_equals_the_reference(
    model: omni.MiniCPMO, steps: list[dict[str, Any]], golden: Path, seconds: list[Floats]
) -> None:
    model.reset_session()
    for step in steps:
        if step["kind"] == "prefill":
            model.streaming_prefill("t", [message_of(step, model, golden, seconds)])
            continue
        pieces = list(model.streaming_generate("t", generate_audio=False, **step["options"]))
        if step["turn"] == 2:  # text only in the reference, too
            assert [list(piece) for piece in pieces] == step["texts"]
        assert "".join(text for text, _ in pieces) == "".join(
            text if isinstance(text, str) else text[0] for text in step["texts"]
        )
        assert [done for _, done in pieces[:-1]] == [False] * (len(pieces) - 1)
        assert pieces[-1][1] == (step["turn"] != 1)  # the second answer is stopped by its limit


# ---- the rules of an answer ----


class Script:
    """A model and a sampler that say what they are told. A token's hidden state is the token."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = iter(tokens)
        self.fed: list[int] = []

    def feed(self, ids: Sequence[int]) -> tuple[Floats, Floats]:
        self.fed += ids
        return np.array([[i] for i in ids], np.float32), np.zeros(1, np.float32)

    def begin_chunk(self) -> None:
        pass

    def sample(self, logits: Floats) -> int:
        return next(self._tokens)

    def is_stop(self, id: int) -> bool:
        return id == STOP


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 12, 19, 20, 21, 25, 30])
def test_every_token_is_given_with_its_state(count: int) -> None:
    tokens = list(range(100, 100 + count))
    script = Script([*tokens, STOP])
    groups = list(answer_groups(script.feed, script, [1, 2], 26))
    assert [token for group in groups for token in group.ids] == tokens
    assert script.fed == [1, 2, *tokens]
    assert all(group.hidden[:, 0].tolist() == group.ids for group in groups)
    assert [len(group.ids) for group in groups[:-1]] == [10] * (len(groups) - 1)
    assert [group.is_last for group in groups] == [False] * (len(groups) - 1) + [True]


def test_a_limit_leaves_the_last_token_unread() -> None:
    script = Script(range(100, 200))
    groups = list(answer_groups(script.feed, script, [1], 3))
    assert [len(group.ids) for group in groups] == [10, 10, 10]
    assert script.fed == [1, *range(100, 130)]
    assert not any(group.is_last for group in groups)


def test_window_drops_whole_rounds_and_keeps_the_system() -> None:
    window = Window(high=100, low=60)
    window.add(20)
    for rows in (30, 25, 20):
        window.begin_round()
        window.add(rows)
    assert window.drop(5) == 0
    assert window.drop(6) == 55
    assert (window.protected, window.rounds, window.length) == (20, [20], 40)
    assert window.drop(1000) == 0  # the round that goes on stays


# ---- sessions ----


def ask(model: omni.MiniCPMO, text: str = "hello", session: str = "a") -> None:
    model.streaming_prefill(session, [{"role": "user", "content": [text]}])


def answer(model: omni.MiniCPMO, session: str = "a", **options: Any) -> str:
    chosen: dict[str, Any] = {"generate_audio": False, "do_sample": False, "max_new_tokens": 10} | options
    return "".join(text for text, _ in model.streaming_generate(session, **chosen))


def test_a_new_session_forgets_the_old_one(fixed: omni.MiniCPMO) -> None:
    ask(fixed, session="b")
    first = answer(fixed, "b")
    ask(fixed, session="b")
    ask(fixed, session="c")
    assert answer(fixed, "c") == first
    with pytest.raises(omni.InvalidArgumentError, match="'b' has not begun"):
        answer(fixed, "b")


def test_old_turns_are_dropped_when_the_context_is_full(fixed: omni.MiniCPMO) -> None:
    fixed.reset_session()
    fixed.streaming_prefill("a", [{"role": "system", "content": ["be brief"]}])
    session = fixed._simplex
    assert session is not None
    system = session.length
    kept = session._cache.clone()
    for _ in range(12):
        ask(fixed, "one two three four")
        answer(fixed)
        assert session.length == session._window.length <= 256
    assert session._window.protected == system
    assert session._dropped > 0
    for layer in range(3):  # the system's keys were not touched
        ours, theirs = (fixed.llm._model._keys(cache, layer, 0, system) for cache in (session._cache, kept))
        assert np.array_equal(ours, theirs)
    # What stays begins with a whole turn.
    assert len(session._window.rounds) >= 1
    with pytest.raises(omni.ContextFullError, match="larger n_ctx"):
        ask(fixed, "word " * 300)


def test_an_answer_can_be_undone(fixed: omni.MiniCPMO, seconds: list[Floats]) -> None:
    fixed.reset_session()
    fixed.streaming_prefill("a", [{"role": "user", "content": [seconds[0]]}])
    answer(fixed, enable_speculative_snapshot=True)
    assert fixed.restore_speculative_snapshot()
    assert not fixed.restore_speculative_snapshot()
    # The user goes on, in the same turn and the same stream of sound.
    assert fixed.streaming_prefill("a", [{"role": "user", "content": [seconds[1]]}]) == "<audio>./</audio>"
    undone = answer(fixed)
    fixed.reset_session()
    for second in seconds[:2]:
        fixed.streaming_prefill("a", [{"role": "user", "content": [second]}])
    assert answer(fixed) == undone


def test_sound_of_any_length(fixed: omni.MiniCPMO, seconds: list[Floats]) -> None:
    wav = np.concatenate(seconds[:3])
    fixed.reset_session()

    def hear(samples: Floats, last: bool = False) -> int:
        before = fixed._simplex.length if fixed._simplex else 0
        fixed.streaming_prefill("a", [{"role": "user", "content": [samples]}], is_last_chunk=last)
        assert fixed._simplex is not None
        return fixed._simplex.length - before

    opening = len(fixed.tokenizer.encode("<|im_start|>user\n"))
    assert hear(wav[:24000]) == opening + 12
    assert hear(wav[24000:40000]) == 12  # half a second waits
    with pytest.raises(omni.InvalidArgumentError, match="is_last_chunk"):
        hear(wav[40000:44000])
    assert hear(wav[40000:44000], last=True) == 2 + 7  # it and the half second before
    fixed.reset_session()
    assert hear(wav[:4000], last=True) == opening + 12  # filled up to a second
    # What waits is heard before the answer.
    fixed.reset_session()
    hear(wav[:24000])
    assert fixed._simplex is not None
    before = fixed._simplex.length
    opener = fixed.tokenizer.encode(answer_opener(enable_thinking=False, use_tts_template=True))
    next(fixed._simplex.generate({"greedy": True}, text="one two three four five six"))
    assert fixed._simplex.length == before + (2 + 5) + len(opener) + 10


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([], "exactly one message"),
        ([{"role": "user", "content": ["a"]}] * 2, "exactly one message"),
        ("hello", "exactly one message"),
        ([{"role": "user", "content": [np.zeros(16000, np.float32)] * 2}], "one clip at a time"),
        ([{"role": "system", "content": ["later"]}], "only the first message"),
    ],
)
def test_unusable_messages(fixed: omni.MiniCPMO, messages: Any, error: str) -> None:
    fixed.reset_session()
    ask(fixed)
    with pytest.raises(omni.InvalidArgumentError, match=error):
        fixed.streaming_prefill("a", messages)
    assert answer(fixed)


def test_unusable_calls(fixed: omni.MiniCPMO) -> None:
    fixed.reset_session()
    with pytest.raises(omni.InvalidArgumentError, match="has not begun"):
        answer(fixed)
    ask(fixed)
    for options, error in [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"length_penalty": 0}, "length_penalty"),
        ({"temperature": -1}, "temperature"),
    ]:
        with pytest.raises(omni.InvalidArgumentError, match=error):
            answer(fixed, **options)
    pieces = fixed.streaming_generate("a", generate_audio=False, max_new_tokens=30)
    next(pieces)
    with pytest.raises(omni.InvalidArgumentError, match="being generated"):
        ask(fixed)
    pieces.close()
    ask(fixed)
    first, second = (fixed.streaming_generate("a", generate_audio=False, max_new_tokens=30) for _ in range(2))
    next(first)
    with pytest.raises(omni.InvalidArgumentError, match="being generated"):
        next(second)
    first.close()
    with pytest.raises(omni.InvalidArgumentError, match="nothing to answer"):
        answer(fixed)
    ask(fixed)
    assert answer(fixed)


def test_given_text(fixed: omni.MiniCPMO) -> None:
    fixed.reset_session()
    ask(fixed)
    said = "one two three four five six seven"
    assert answer(fixed, teacher_forcing=True, teacher_forcing_text=said) == said
    ask(fixed)
    assert answer(fixed, teacher_forcing=True) == ""
