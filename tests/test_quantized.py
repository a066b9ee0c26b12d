"""Drift of the language model's quantised forms against float32, on the tiny checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import relative_rms

import omni
from omni import _ext
from omni.convert import Options, convert

# Relative rounding of activations before a product: ggml brings them to F16 or BF16 beside such weights (at
# most half a unit of the last of 11 or 8 bits, evenly spread: divided by sqrt 3), to blocks of 8 bits beside
# quantised ones.
F16, BF16, Q8 = 2**-11 / 3**0.5, 2**-8 / 3**0.5, 5e-3
TYPES = {
    "F16": ("F16", F16),
    "Q8_0": ("Q8_0", Q8),
    "Q6_K": ("Q6_K", Q8),
    "Q5_K_M": ("Q5_K", Q8),
    "Q5_1": ("Q5_1", Q8),
    "Q5_0": ("Q5_0", Q8),
    "Q4_K_M": ("Q4_K", Q8),
    "Q4_K_S": ("Q4_K", Q8),
    "Q4_1": ("Q4_1", Q8),
    "Q4_0": ("Q4_0", Q8),
}
# How much the three layers amplify rounding: the reference's own logits move by 0.0137 when its weights are
# rounded to Q8_0 (relative error 0.0053) and by 0.22 with Q4_0 (0.091), so 2.4 to 2.6 times. Rounded weights
# and activations add up, and the better half of a K mix only helps.
AMPLIFICATION = 3.0


def rounding_error(type_name: str) -> float:
    """Relative error of normally distributed weights in a type."""
    values = np.random.default_rng(1).standard_normal((64, 512)).astype(np.float32)
    packed = _ext.quantize(values, type_name)
    return relative_rms(_ext.dequantize(packed, type_name, values.shape[1]), values)


def softmax(logits: np.ndarray) -> np.ndarray:
    scores = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(scores / scores.sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("quant", TYPES)
def test_drift(quant: str, tiny_checkpoint: Path, golden: Path, tmp_path: Path) -> None:
    reference = np.load(golden / "llm.npz")
    convert(tiny_checkpoint, tmp_path, Options(llm=quant, only=frozenset({"llm"})))
    (path,) = tmp_path.glob("*.gguf")
    base, activations = TYPES[quant]
    bound = AMPLIFICATION * float(np.hypot(rounding_error(base), activations))
    for repack in (False, True):
        model = omni.LanguageModel(path, n_ctx=1024, kv_type="f16", repack=repack)
        hidden, logits = model.forward(reference["text_ids"], model.new_cache(), logits="all")
        drift = relative_rms(logits, reference["text_logits"])
        expected = softmax(reference["text_logits"].astype(np.float64))
        divergence = np.sum(expected * np.log(expected / softmax(logits.astype(np.float64))), axis=-1)
        agreement = np.mean(logits.argmax(-1) == reference["text_logits"].argmax(-1))
        print(
            f"{quant} repack={repack}: logits {drift:.2g} (bound {bound:.2g}), hidden "
            f"{relative_rms(hidden, reference['text_hidden_final']):.2g}, KL {divergence.mean():.2g}, "
            f"top-1 {agreement:.0%}"
        )
        assert drift < bound
        # For small drifts d of logits with spread s the divergence is about (d s)^2 / 2; twice that may be.
        assert divergence.mean() < (bound * reference["text_logits"].std()) ** 2


@pytest.mark.parametrize(("kv_type", "bound"), [("f16", AMPLIFICATION * F16), ("q8_0", AMPLIFICATION * Q8)])
def test_cache_types(tiny_model_dir: Path, golden: Path, kv_type: str, bound: float) -> None:
    """Keys and values are rounded once, and rows can still be moved."""
    reference = np.load(golden / "llm.npz")
    (path,) = tiny_model_dir.glob("MiniCPM-o-4_5-*.gguf")
    model = omni.LanguageModel(path, n_ctx=1024, kv_type=kv_type)  # type: ignore[arg-type]
    cache = model.new_cache()
    hidden, _ = model.forward(reference["text_ids"], cache, logits="none")
    drift = relative_rms(hidden, reference["text_hidden_final"])
    print(f"{kv_type}: hidden {drift:.2g}")
    assert drift < bound
    values = model._model._values(cache, 2, 10, 21)
    cache.remove(0, 10)
    np.testing.assert_array_equal(model._model._values(cache, 2, 0, 21), values)


def test_weight_formats(tiny_model_dir: Path, golden: Path) -> None:
    """Float weights can be held as Q8_0 or BF16; what is stored in the file does not change."""
    reference = np.load(golden / "llm.npz")
    (path,) = tiny_model_dir.glob("MiniCPM-o-4_5-*.gguf")
    for weight_format, bound in [("q8_0", AMPLIFICATION * 1e-2), ("bf16", AMPLIFICATION * BF16)]:
        model = omni.LanguageModel(path, n_ctx=1024, weight_format=weight_format)  # type: ignore[arg-type]
        _, logits = model.forward(reference["text_ids"], model.new_cache(), logits="all")
        drift = relative_rms(logits, reference["text_logits"])
        print(f"{weight_format}: logits {drift:.2g}")
        assert drift < bound
