"""The language model against the reference, and against itself in chunks and after removals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import relative_rms
from numpy.typing import NDArray

import omni

# The reference and we compute in float32; sums over 256 to 512 terms differ by their order, about 1e-6 of
# the result per layer, and the stored arrays are rounded to 16 bits of mantissa (4e-6). The bound is 1e-4.
TOLERANCE = 1e-4

Arrays = dict[str, NDArray[np.float32]]


@pytest.fixture(scope="module", params=[d.name for d in omni.list_devices()])
def model(request: pytest.FixtureRequest, tiny_model_dir: Path) -> omni.LanguageModel:
    return omni.LanguageModel(llm_file(tiny_model_dir), n_ctx=1024, kv_type="f32", device=request.param)


def llm_file(folder: Path) -> Path:
    (path,) = folder.glob("MiniCPM-o-4_5-*.gguf")
    return path


@pytest.fixture(scope="module")
def reference(golden: Path) -> Arrays:
    return dict(np.load(golden / "llm.npz"))


def test_text_prompt(model: omni.LanguageModel, reference: Arrays) -> None:
    ids = reference["text_ids"]
    assert relative_rms(model.embed(ids), reference["text_embed"]) < 1e-6
    cache = model.new_cache()
    hidden, logits = model.forward(ids, cache, logits="all")
    assert len(cache) == len(ids)
    assert relative_rms(hidden, reference["text_hidden_final"]) < TOLERANCE
    assert relative_rms(logits, reference["text_logits"]) < TOLERANCE
    keys = model._model._keys(cache, 0, 0, len(ids)).transpose(1, 0, 2)
    values = model._model._values(cache, 0, 0, len(ids)).transpose(1, 0, 2)
    assert relative_rms(keys, reference["text_k_cache0"]) < TOLERANCE
    assert relative_rms(values, reference["text_v_cache0"]) < TOLERANCE


def test_embeddings_as_input(model: omni.LanguageModel, reference: Arrays) -> None:
    hidden, logits = model.forward(reference["text_embed"], model.new_cache(), logits="last")
    assert relative_rms(hidden, reference["text_hidden_final"]) < TOLERANCE
    assert relative_rms(logits[0], reference["text_logits"][-1]) < TOLERANCE


def test_long_prompt_last_logits(model: omni.LanguageModel, reference: Arrays) -> None:
    _, logits = model.forward(reference["long_ids"], model.new_cache(), logits="last", hidden="rows")
    assert relative_rms(logits[0], reference["long_logits_last"]) < TOLERANCE


def test_greedy_continuation(model: omni.LanguageModel, reference: Arrays) -> None:
    cache = model.new_cache()
    _, logits = model.forward(reference["text_ids"], cache, logits="last")
    ids = []
    for step in range(len(reference["greedy_ids"])):
        assert relative_rms(logits[0], reference["greedy_logits"][step]) < TOLERANCE
        ids.append(int(np.argmax(logits[0])))
        _, logits = model.forward([ids[-1]], cache, logits="last", hidden="rows")
    assert ids == reference["greedy_ids"].tolist()


def test_row_choice_changes_nothing(model: omni.LanguageModel, reference: Arrays) -> None:
    ids = reference["text_ids"]
    hidden, logits = model.forward(ids, model.new_cache(), logits="all")
    some_hidden, some = model.forward(ids, model.new_cache(), logits=[0, 7, 30], hidden="rows")
    assert relative_rms(some, logits[[0, 7, 30]]) < 1e-5
    assert relative_rms(some_hidden, hidden[[0, 7, 30]]) < 1e-5
    only_hidden, none = model.forward(ids, model.new_cache(), logits="none")
    assert none.shape == (0, model.info.n_vocab)
    assert relative_rms(only_hidden, hidden) < 1e-5
    cache = model.new_cache()
    model.forward(ids[:20], cache, logits="none", hidden="rows")
    _, last = model.forward(ids[20:], cache, logits="last")
    assert relative_rms(last[0], logits[-1]) < 1e-5


@pytest.mark.parametrize("seed", range(4))
def test_chunks_equal_one_prefill(model: omni.LanguageModel, reference: Arrays, seed: int) -> None:
    ids = reference["long_ids"]
    whole, _ = model.forward(ids, model.new_cache())
    random = np.random.default_rng(seed)
    cache = model.new_cache()
    parts = []
    while len(cache) < len(ids):
        count = int(random.choice([1, 2, 7, 64, 200]))
        parts.append(model.forward(ids[len(cache) : len(cache) + count], cache)[0])
    assert relative_rms(np.concatenate(parts), whole) < 1e-5


def test_batches_equal_one_pass(tiny_model_dir: Path, reference: Arrays) -> None:
    ids = reference["long_ids"]
    results = []
    for n_batch in (1024, 96):
        model = omni.LanguageModel(llm_file(tiny_model_dir), n_ctx=1024, kv_type="f32", n_batch=n_batch)
        results.append(model.forward(ids, model.new_cache(), logits=[3, 95, 96, 500, 699], hidden="rows"))
    assert relative_rms(results[1][0], results[0][0]) < 1e-5
    assert relative_rms(results[1][1], results[0][1]) < 1e-5


def rotate(keys: NDArray[np.float32], by: int, base: float = 1e6) -> NDArray[np.float64]:
    """Turn keys [n, heads, d] in the rotate-half layout by a number of positions."""
    half = keys.shape[-1] // 2
    angle = by * base ** (-np.arange(half) / half)
    first, second = keys[..., :half].astype(np.float64), keys[..., half:].astype(np.float64)
    return np.concatenate(
        [first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)],
        axis=-1,
    )


@pytest.mark.parametrize(("first", "count"), [(0, 5), (40, 100), (30, 1), (650, 50)])
def test_removing_a_span_turns_the_keys_behind(
    model: omni.LanguageModel, reference: Arrays, first: int, count: int
) -> None:
    cache = model.new_cache()
    model.forward(reference["long_ids"], cache, logits="none")
    layers = range(model.info.n_layers)
    keys = [model._model._keys(cache, layer, 0, 700) for layer in layers]
    values = [model._model._values(cache, layer, 0, 700) for layer in layers]
    cache.remove(first, count)
    assert len(cache) == 700 - count
    for layer in layers:
        got = model._model._keys(cache, layer, 0, 700 - count)
        expected = np.concatenate([keys[layer][:first], rotate(keys[layer][first + count :], -count)])
        assert relative_rms(got, expected) < TOLERANCE
        kept = np.concatenate([values[layer][:first], values[layer][first + count :]])
        np.testing.assert_array_equal(model._model._values(cache, layer, 0, 700 - count), kept)


def test_move_up_and_extend(model: omni.LanguageModel, reference: Arrays) -> None:
    """Rows can be kept aside while others are computed before them: the way a context is rebuilt."""
    cache = model.new_cache()
    model.forward(reference["long_ids"][:600], cache, logits="none")
    before = model._model._keys(cache, 1, 300, 300)
    cache.move(300, 300, 310)
    cache.truncate(300)
    model.forward(reference["long_ids"][:10], cache, logits="none")
    cache.extend(610)
    assert relative_rms(model._model._keys(cache, 1, 310, 300), rotate(before, 10)) < TOLERANCE


def test_truncate_and_clone(model: omni.LanguageModel, reference: Arrays) -> None:
    ids = reference["text_ids"]
    cache = model.new_cache()
    model.forward(ids[:20], cache)
    snapshot = cache.clone()
    expected = model.forward(ids[20:], cache)[0]
    assert relative_rms(model.forward(ids[20:], snapshot)[0], expected) == 0
    cache.truncate(20)
    assert relative_rms(model.forward(ids[20:], cache)[0], expected) == 0
    cache.reset()
    assert len(cache) == 0


def test_many_caches_do_not_mix(model: omni.LanguageModel, reference: Arrays) -> None:
    ids = reference["text_ids"]
    expected, _ = model.forward(ids, model.new_cache())
    caches = [model.new_cache() for _ in range(3)]
    parts: list[list[NDArray[np.float32]]] = [[], [], []]
    for start in range(0, len(ids), 5):
        for cache, out in zip(caches, parts, strict=True):
            out.append(model.forward(ids[start : start + 5], cache)[0])
    for out in parts:
        assert relative_rms(np.concatenate(out), expected) < 1e-5


def test_context_limit(model: omni.LanguageModel) -> None:
    cache = model.new_cache(32)
    model.forward(np.arange(30), cache)
    with pytest.raises(omni.ContextFullError, match="30 of 32 positions"):
        model.forward(np.arange(3), cache)
    assert len(cache) == 30
    model.forward(np.arange(2), cache)
    assert len(cache) == 32


def test_bad_input(model: omni.LanguageModel) -> None:
    cache = model.new_cache(32)
    width = model.info.width
    with pytest.raises(omni.InvalidArgumentError, match="vocabulary"):
        model.forward([model.info.n_vocab], cache)
    with pytest.raises(omni.InvalidArgumentError, match="vocabulary"):
        model.embed([-1])
    with pytest.raises(omni.InvalidArgumentError, match="NaN"):
        model.forward(np.full((2, width), np.nan, np.float32), cache)
    for shape in [(2, width + 1), (2, 2, width), (0, width)]:
        with pytest.raises(omni.InvalidArgumentError):
            model.forward(np.zeros(shape, np.float32), cache)
    with pytest.raises(omni.InvalidArgumentError):
        model.forward([1, 2], cache, logits=[5])
    with pytest.raises(omni.InvalidArgumentError):
        cache.remove(0, 5)
    with pytest.raises(omni.InvalidArgumentError):
        cache.truncate(5)
    assert len(cache) == 0


def test_bad_options(tiny_model_dir: Path) -> None:
    path = llm_file(tiny_model_dir)
    for options in [
        {"kv_type": "q2"},
        {"device": "nowhere"},
        {"n_ctx": 0},
        {"weight_format": "x"},
        {"n_threads": -1},
    ]:
        with pytest.raises(omni.InvalidArgumentError):
            omni.LanguageModel(path, **options)  # type: ignore[arg-type]


def test_cut_and_changed_files(tiny_model_dir: Path, tmp_path: Path) -> None:
    """Cut at every 4 KiB and with flipped bits in the head, a file gives an error that names it, or works."""
    data = llm_file(tiny_model_dir).read_bytes()
    damaged = tmp_path / "damaged-模型.gguf"
    for size in range(0, len(data), 4096):
        damaged.write_bytes(data[:size])
        with pytest.raises(omni.OmniError, match="damaged-模型"):
            omni.LanguageModel(damaged)
    random = np.random.default_rng(0)
    for _ in range(200):
        changed = bytearray(data)
        changed[int(random.integers(0, 60000))] ^= 1 << int(random.integers(0, 8))
        damaged.write_bytes(changed)
        try:
            model = omni.LanguageModel(damaged, n_ctx=32)
            model.forward([1, 2], model.new_cache())
        except omni.OmniError as error:
            assert "damaged-模型" in str(error) or "NaN" in str(error)


def test_missing_file() -> None:
    with pytest.raises(omni.ModelFileError, match=r"nowhere\.gguf"):
        omni.LanguageModel("/nowhere.gguf")
