"""Resident memory of whole models at their real sizes: `python tests/bench/memory.py [TYPE ...]`.

Files of the official layout are made sparse, so that they take no room on the disk; reading them brings as
many pages into memory as real ones would. Each line is a process of its own: it opens the parts, uses them,
and says what the system counts then: private memory, pages of files (which the system can drop and read
again), and the peak of both together.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))

from official_layout import published_plans, write_sparse  # noqa: E402

SECTIONS: dict[str, tuple[str, ...]] = {
    "text": (),
    "+ pictures": ("vision",),
    "+ sound": ("audio",),
    "everything": ("vision", "audio", "speech"),
}


def resident() -> dict[str, float]:
    """10^9 bytes of private memory and of files' pages now, and the peak of all."""
    lines = Path("/proc/self/status").read_text().splitlines()
    values = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("Rss", "VmHWM"))}
    return {name: int(values[key]) * 1024 / 1e9 for name, key in _KEYS.items()}


_KEYS = {"anon": "RssAnon", "file": "RssFile", "peak": "VmHWM"}


def use(directory: Path, parts: tuple[str, ...], args: argparse.Namespace) -> dict[str, float]:
    """Opens a model with these parts and lets each of them work."""
    import omni

    warnings.simplefilter("ignore")
    random = np.random.default_rng(0)
    options: dict[str, Any] = {f"init_{name}": part in parts for name, part in _INIT.items()}
    model = omni.MiniCPMO.from_pretrained(
        directory,
        n_ctx=args.ctx,
        kv_type=args.kv,
        weight_format=args.weights,
        n_threads=args.threads,
        **options,
    )
    model.llm.forward(np.arange(512), model.llm.new_cache())
    frame = random.integers(0, 256, (448, 448, 3), dtype=np.uint8)
    if "speech" in parts:
        sound = random.uniform(-0.1, 0.1, args.units * 16000).astype(np.float32)
        with omni.DuplexSession(model, greedy=True, real_time=False, max_speak=4) as session:
            session.push_frame(frame)
            session.push_audio(sound[:16000])
            for second in range(1, args.units):
                session.push_audio(sound[second * 16000 : (second + 1) * 16000])
            session.end_input()
            for event in session:
                if args.units > 10 and event.type == "unit" and event.unit % 10 == 9:
                    print(f"unit {event.unit + 1}: {json.dumps(resident())}", file=sys.stderr)
            return resident()
    content: list[Any] = ["x"]
    if "vision" in parts:
        content.insert(0, frame)
    if "audio" in parts:
        content.insert(0, random.uniform(-0.1, 0.1, 16000).astype(np.float32))
    stream = model.chat(
        msgs=[{"role": "user", "content": content}], do_sample=False, stream=True, max_new_tokens=3
    )
    next(stream)
    return resident()  # with the answer's context


_INIT = {"vision": "vision", "audio": "audio", "tts": "speech"}


def main() -> None:
    """Prints a line for each type and set of parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*", default=["Q4_K_M"], metavar="TYPE")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="of them: %(default)s")
    parser.add_argument("--ctx", type=int, default=8192, help="positions of context")
    parser.add_argument("--kv", default="f16", help="type of keys and values")
    parser.add_argument("--weights", default="auto", help="format of the other networks' weights")
    parser.add_argument("--units", type=int, default=2, help="seconds of the session")
    parser.add_argument("--threads", type=int, help="of the processor")
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.directory is not None:
        print(json.dumps(use(args.directory, SECTIONS[args.sections], args)))
        return
    print(f"context {args.ctx}, keys and values {args.kv}, weights {args.weights}; GB of 10^9 bytes")
    for quant in args.types:
        folder = Path(tempfile.mkdtemp(prefix="omni-memory-"))
        try:
            for plan in published_plans(TESTS / "golden" / "tiny", quant):
                write_sparse(plan, folder)
            for section in args.sections.split(","):
                print(f"{quant:<7} {section:<11} {measure(folder, section, args)}", flush=True)
        finally:
            shutil.rmtree(folder)


def measure(folder: Path, section: str, args: argparse.Namespace) -> str:
    """One line, from a process of its own."""
    command = [sys.executable, __file__, "--directory", str(folder), "--sections", section]
    command += [
        "--ctx",
        str(args.ctx),
        "--kv",
        args.kv,
        "--units",
        str(args.units),
        "--weights",
        args.weights,
    ]
    command += ["--threads", str(args.threads)] if args.threads else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    values = json.loads(done.stdout)
    return "  ".join(f"{name} {value:6.2f}" for name, value in values.items())


if __name__ == "__main__":
    main()
