"""A checkpoint of the real widths, converted, loaded, and run for a unit.

    python tests/bench/convert_real_size.py

Widths, vocabulary and tables are those of MiniCPM-o 4.5, the number of layers is not; weights are random.
Memory is that of the converter's process at its peak, as the system counts it.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))

from official_layout import real_tokenizer  # noqa: E402

from omni.convert.job import Options, plan_conversion  # noqa: E402

CHECKPOINT = TESTS / "golden" / "tiny"
PATTERN = 1 << 24  # random numbers, used over and over


def write_checkpoint(directory: Path, layers: int) -> int:
    """Writes a checkpoint in BF16 with so many layers of each network and returns its bytes."""
    directory.mkdir(parents=True)
    _write_tokenizer(directory)
    (directory / "config.json").write_text(
        json.dumps(
            {
                "model_type": "minicpmo",
                "drop_vision_last_layer": False,
                "num_hidden_layers": layers,
                "vision_config": {"num_hidden_layers": layers},
                "audio_config": {"encoder_layers": layers},
                "tts_config": {"num_hidden_layers": layers},
            }
        )
    )
    parts = frozenset({"llm", "vision", "audio", "tts"})
    shapes = {}
    for job in plan_conversion(directory, Options(only=parts), need_weights=False):
        shapes |= {name: source.shape for name, source in job.plan.sources().items()}
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    random = np.random.default_rng(0).standard_normal(PATTERN, dtype=np.float32) * np.float32(0.02)
    pattern = (random.view(np.uint32) >> 16).astype(np.uint16)
    encoded = json.dumps(header).encode()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name, shape in shapes.items():
            left = int(np.prod(shape))
            if len(shape) == 1 and name.endswith("weight"):
                file.write(np.full(left, 0x3F80, np.uint16))  # the ones of a norm
                continue
            while left > 0:
                file.write(pattern[: min(left, PATTERN)])
                left -= PATTERN
    return offset


def _write_tokenizer(directory: Path) -> None:
    """The tiny checkpoint's, with fillers before the added tokens so that these have their real ids."""
    tokenizer = real_tokenizer(CHECKPOINT)
    data = json.loads((CHECKPOINT / "tokenizer.json").read_text("utf-8"))
    base, moved = tokenizer.base_size, len(tokenizer.tokens) - 1302
    data["model"]["vocab"] = {token: i for i, token in enumerate(tokenizer.tokens[:base])}
    for added in data["added_tokens"]:
        added["id"] += moved if added["id"] >= base - moved else 0
    (directory / "tokenizer.json").write_text(json.dumps(data), "utf-8")
    settings = json.loads((CHECKPOINT / "tokenizer_config.json").read_text("utf-8"))
    added = settings["added_tokens_decoder"]
    settings["added_tokens_decoder"] = {
        str(int(i) + (moved if int(i) >= base - moved else 0)): token for i, token in added.items()
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")


def convert(source: Path, target: Path, quant: str) -> tuple[float, float]:
    """Seconds and peak memory (10^9 bytes) of the converter in a process of its own."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "omni.convert", str(source), str(target), "--llm", quant, "--quiet"]
    subprocess.run([*command, "--token2wav", str(CHECKPOINT / "assets" / "token2wav")], check=True)
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9


def run_unit(directory: Path) -> str:
    """A second of sound and a picture through a full-duplex session."""
    import omni

    random = np.random.default_rng(1)
    model = omni.MiniCPMO.from_pretrained(directory, n_ctx=1024)
    sound = random.uniform(-0.1, 0.1, 16000).astype(np.float32)
    picture = random.integers(0, 256, (448, 448, 3), dtype=np.uint8)
    voice = random.uniform(-0.1, 0.1, 3 * 16000).astype(np.float32)
    with omni.DuplexSession(model, ref_audio=voice, greedy=True, real_time=False) as session:
        session.push_frame(picture)
        session.push_audio(sound)
        session.end_input()
        events = [type(event).__name__ for event in session]
    return f"{model.describe()}: {', '.join(events)}"


def main() -> None:
    """Runs everything and prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=2, help="of each network (default 2)")
    parser.add_argument("--llm", default="Q4_K_M", help="type of the language model (default Q4_K_M)")
    parser.add_argument("--dir", type=Path, help="where to write (default: a temporary directory)")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    folder = Path(tempfile.mkdtemp(prefix="omni-real-size-", dir=args.dir))
    try:
        size = write_checkpoint(folder / "hf", args.layers)
        print(f"checkpoint: {size / 1e9:.2f} GB, {args.layers} layers of each network")
        seconds, peak = convert(folder / "hf", folder / "model", args.llm)
        print(f"converted in {seconds:.0f} s, at most {peak:.2f} GB resident")
        seconds, _ = convert(folder / "hf", folder / "model", args.llm)
        print(f"converted again in {seconds:.1f} s: finished files are kept")
        print(run_unit(folder / "model"))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
