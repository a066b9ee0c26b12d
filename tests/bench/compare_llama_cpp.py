"""Prefill and decode side by side with llama-cpp-python, on one file with random weights.

    pip install --no-binary llama-cpp-python llama-cpp-python 'omni[convert]'
    python tests/bench/compare_llama_cpp.py --layers 8

Both get the same file, threads, F16 keys and values and flash attention; runs alternate, so that a machine
that drifts drifts for both. Ratios above 1 mean that omni is faster.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

import omni
from omni import _ext

WIDTH, HEADS, KV_HEADS, HEAD, FFN, VOCAB = 4096, 32, 8, 128, 12288, 151748  # Qwen3-8B
DECODE_STEPS = 16


def write_model(path: Path, layers: int) -> None:
    """Write weights in the official Q4_K_M mix; blocks of random rows repeat, which changes no timing."""
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_block_count(layers)
    writer.add_context_length(40960)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_vocab_size(VOCAB)
    writer.add_tokenizer_model("none")
    random = np.random.default_rng(0)

    def matrix(name: str, inputs: int, outputs: int, kind: str) -> None:
        rows = random.standard_normal((4, inputs)).astype(np.float32) / np.sqrt(inputs)
        packed = np.frombuffer(_ext.quantize(rows.astype(np.float32), kind), np.uint8).reshape(4, -1)
        writer.add_tensor(name, np.tile(packed, (outputs // 4, 1)), raw_dtype=gguf.GGMLQuantizationType[kind])

    def ones(name: str, size: int) -> None:
        writer.add_tensor(name, np.ones(size, np.float32))

    matrix("token_embd.weight", WIDTH, VOCAB, "Q4_K")
    ones("output_norm.weight", WIDTH)
    matrix("output.weight", WIDTH, VOCAB, "Q6_K")
    for i in range(layers):
        eighth = layers // 8
        better = "Q6_K" if i < eighth or i >= 7 * layers // 8 or (i - eighth) % 3 == 2 else "Q4_K"
        ones(f"blk.{i}.attn_norm.weight", WIDTH)
        ones(f"blk.{i}.attn_q_norm.weight", HEAD)
        ones(f"blk.{i}.attn_k_norm.weight", HEAD)
        ones(f"blk.{i}.ffn_norm.weight", WIDTH)
        matrix(f"blk.{i}.attn_q.weight", WIDTH, HEADS * HEAD, "Q4_K")
        matrix(f"blk.{i}.attn_k.weight", WIDTH, KV_HEADS * HEAD, "Q4_K")
        matrix(f"blk.{i}.attn_v.weight", WIDTH, KV_HEADS * HEAD, better)
        matrix(f"blk.{i}.attn_output.weight", HEADS * HEAD, WIDTH, "Q4_K")
        matrix(f"blk.{i}.ffn_gate.weight", WIDTH, FFN, "Q4_K")
        matrix(f"blk.{i}.ffn_up.weight", WIDTH, FFN, "Q4_K")
        matrix(f"blk.{i}.ffn_down.weight", FFN, WIDTH, better)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Omni:
    """The engine under test."""

    def __init__(self, path: Path, threads: int) -> None:
        self.model = omni.LanguageModel(path, n_ctx=1024, n_threads=threads, n_batch=512, kv_type="f16")
        self.cache = self.model.new_cache()

    def prefill(self, ids: list[int]) -> None:
        """From an empty cache; logits of the last token."""
        self.cache.reset()
        self.model.forward(np.asarray(ids), self.cache, hidden="rows")

    def decode(self, steps: int) -> None:
        """Token by token."""
        for _ in range(steps):
            self.model.forward([7], self.cache, hidden="rows")


class LlamaCpp:
    """The same through llama.cpp's C interface, without anything of Python's in between."""

    _silent = llama_cpp.llama_log_callback(lambda level, text, data: None)

    def __init__(self, path: Path, threads: int) -> None:
        llama_cpp.llama_log_set(self._silent, None)
        self.model = llama_cpp.llama_model_load_from_file(
            str(path).encode(), llama_cpp.llama_model_default_params()
        )
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = 1024, 512, 512
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        self.context = llama_cpp.llama_init_from_model(self.model, params)

    def _decode(self, ids: list[int]) -> None:
        tokens = (llama_cpp.llama_token * len(ids))(*ids)
        status = llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(tokens, len(ids)))
        assert status == 0, status
        llama_cpp.llama_synchronize(self.context)

    def prefill(self, ids: list[int]) -> None:
        """From an empty cache; logits of the last token."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), False)
        self._decode(ids)

    def decode(self, steps: int) -> None:
        """Token by token."""
        for _ in range(steps):
            self._decode([7])


def timed(run: Callable[[], None], clock: Callable[[], float]) -> float:
    """Seconds of one run."""
    start = clock()
    run()
    return clock() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=8, help="layers of Qwen3-8B's 36 (default 8)")
    parser.add_argument("--threads", type=int, default=omni.default_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--cpu", action="store_true", help="processor time: for a busy machine, with --threads 1"
    )
    parser.add_argument("--model", type=Path, help="file to keep and use again")
    args = parser.parse_args()
    clock = time.process_time if args.cpu else time.perf_counter
    with tempfile.TemporaryDirectory() as folder:
        path = args.model or Path(folder) / "random.gguf"
        if not path.exists():
            write_model(path, args.layers)
        a, b = Omni(path, args.threads), LlamaCpp(path, args.threads)
        ids = np.random.default_rng(0).integers(0, VOCAB, 512).tolist()
        print(f"{'':12} {'omni ms':>9} {'llama.cpp ms':>13} {'ratio (median of pairs)':>24}")
        for n in (64, 128, 512, 0):

            def work(engine: Omni | LlamaCpp, n: int = n) -> Callable[[], None]:
                return (lambda: engine.prefill(ids[:n])) if n else (lambda: engine.decode(DECODE_STEPS))

            if n == 0:
                a.prefill(ids[:128])
                b.prefill(ids[:128])
            timed(work(a), clock), timed(work(b), clock)
            pairs = [(timed(work(a), clock), timed(work(b), clock)) for _ in range(args.repeats)]
            mine, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
            ratio = statistics.median(y / x for x, y in pairs)
            name = f"prefill {n}" if n else f"decode {DECODE_STEPS}"
            print(f"{name:12} {mine * 1e3:9.1f} {theirs * 1e3:13.1f} {ratio:24.3f}", flush=True)


if __name__ == "__main__":
    main()
