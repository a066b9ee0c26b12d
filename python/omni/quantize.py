"""`python -m omni.quantize IN OUT TYPE`: a model file with smaller (or larger) weights."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from omni.command import run_command
from omni.convert.gguf_source import GgufSource
from omni.convert.report import print_plan, progress_bar
from omni.convert.requantize import plan_requantization, requantize
from omni.convert.weight_types import MIXES
from omni.options import MODEL_OPTIONS, add_options, model_of


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m omni.quantize", description=__doc__)
    parser.add_argument(
        "input",
        nargs="?",
        type=Path,
        metavar="IN",
        help="GGUF file, F16 or F32 for the best result; or -hf OWNER/NAME:F16",
    )
    parser.add_argument("output", type=Path, metavar="OUT", help="GGUF file to write")
    parser.add_argument("type", metavar="TYPE", help=f"{', '.join(MIXES)}; other networks: Q8_0, Q4_K, ...")
    parser.add_argument("--dry-run", action="store_true", help="print tensors and size only")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    parser.add_argument("--quiet", action="store_true", help="no table and no progress bar")
    parser.add_argument("--json", action="store_true", help="sizes on stdout as JSON")
    add_options(parser, MODEL_OPTIONS)
    return parser


def run(args: argparse.Namespace) -> None:
    """Plans, prints and writes."""
    path = args.input or model_of(args, ()).llm
    source = GgufSource(path)
    plan = plan_requantization(source, args.type, args.output.name)
    if not args.quiet:
        print_plan(plan)
    if not args.dry_run:
        with progress_bar(plan.tensor_size(), plan.path, args.quiet) as progress:
            requantize(source, plan, args.output, args.force, progress)
    before, after = path.stat().st_size, plan.file_size()
    if args.json:
        print(
            json.dumps(
                {"input_bytes": before, "bytes": after, "path": str(args.output), "written": not args.dry_run}
            )
        )
    else:
        print(f"{before:,} -> {after:,} bytes ({after / before:.0%})  {args.output}")


if __name__ == "__main__":
    sys.exit(run_command(build_parser(), run))
