"""`python -m omni.convert HF_DIR OUT_DIR`: a Hugging Face checkpoint to the official GGUF layout."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from omni.command import run_command
from omni.convert.job import PARTS, TYPED_PARTS, Options, plan_conversion, run_job
from omni.convert.report import print_plan, progress_bar
from omni.convert.token2wav_assets import ASSETS
from omni.convert.weight_types import MIXES
from omni.errors import InvalidArgumentError


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m omni.convert", description=__doc__)
    parser.add_argument(
        "hf_dir", type=Path, metavar="HF_DIR", help="directory with config.json and *.safetensors"
    )
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="model directory to write")
    parser.add_argument(
        "--dtype", metavar="F32", help="store every part with this type (F32 for parity tests)"
    )
    parser.add_argument("--llm", metavar="TYPE", help=f"language model: {', '.join(MIXES)} (default Q4_K_M)")
    parser.add_argument("--vision", metavar="TYPE", help="vision encoder (default F16)")
    parser.add_argument("--audio", metavar="TYPE", help="audio encoder (default F16)")
    parser.add_argument("--tts", metavar="TYPE", help="speech model (default F16)")
    parser.add_argument(
        "--token2wav", type=Path, metavar="DIR", help=f"flow and vocoder (default HF_DIR/{ASSETS})"
    )
    parser.add_argument("--only", metavar="PARTS", help=f"convert only these parts: {','.join(PARTS)}")
    parser.add_argument(
        "--dry-run", action="store_true", help="print files and sizes; config.json alone will do"
    )
    parser.add_argument("--force", action="store_true", help="write files again that an earlier run finished")
    parser.add_argument("--quiet", action="store_true", help="no tables and no progress bar")
    parser.add_argument("--json", action="store_true", help="list files and sizes on stdout as JSON")
    return parser


def read_options(args: argparse.Namespace) -> Options:
    """The options of a command line. Raises InvalidArgumentError for contradictions."""
    chosen = {part: getattr(args, part) for part in TYPED_PARTS if getattr(args, part)}
    if args.dtype and chosen:
        raise InvalidArgumentError(f"--dtype sets the type of every part; don't give --{min(chosen)} with it")
    only = frozenset(args.only.split(",")) if args.only else None
    options = Options.uniform(args.dtype, only) if args.dtype else Options(only=only, **chosen)
    return dataclasses.replace(options, token2wav=args.token2wav)


def run(args: argparse.Namespace) -> None:
    """Plans, prints and writes."""
    jobs = plan_conversion(args.hf_dir, read_options(args), need_weights=not args.dry_run)
    if not args.quiet:
        for job in jobs:
            print_plan(job.plan)
    files = [{"path": job.plan.path, "bytes": job.plan.file_size()} for job in jobs]
    total = sum(job.plan.file_size() for job in jobs)
    if not args.dry_run:
        for job in jobs:
            with progress_bar(job.plan.tensor_size(), job.plan.path, args.quiet) as progress:
                written = run_job(job, args.out_dir, args.force, progress)
            if not written:
                print(f"{job.plan.path}: kept, it is complete (--force writes it again)", file=sys.stderr)
    if args.json:
        print(json.dumps({"files": files, "bytes": total, "written": not args.dry_run}))
    else:
        for job in jobs:
            print(f"{job.plan.file_size():>14,}  {job.plan.path}")
        print(f"{total:>14,}  total")


if __name__ == "__main__":
    sys.exit(run_command(build_parser(), run))
