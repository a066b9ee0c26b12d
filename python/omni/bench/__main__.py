"""`python -m omni.bench`: how fast each stage runs here, beside this machine's own peaks."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator

from omni.bench import Row, measure, table
from omni.bench.machine import Machine
from omni.bench.stages import STAGES, MissingPartError
from omni.command import run_command
from omni.errors import InvalidArgumentError
from omni.options import MODEL_OPTIONS, add_options

_OPTIONS = (
    *MODEL_OPTIONS, "threads", "ctx_size", "batch_size", "device", "n_gpu_layers", "kv_type",
    "weight_format", "synthetic", "llm", "layers", "repeats", "seconds", "past", "json", "verbose",
)  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m omni.bench",
        description="Time each stage and hold it against what this machine can do at most: arithmetic for "
        "the weights' type, and reading memory.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "stages", nargs="*", metavar="STAGE", help=f"stages to measure: {', '.join(STAGES)} (default: all)"
    )
    add_options(parser, _OPTIONS)
    return parser


def run(args: argparse.Namespace) -> None:
    """Measure and print."""
    if not args.synthetic and not args.model and not args.hf_repo:
        raise InvalidArgumentError("give a model with -m or -hf, or --synthetic minicpm-o-4.5")
    for stage in args.stages:
        if stage not in STAGES:
            raise InvalidArgumentError(f"there is no stage '{stage}'; there are {', '.join(STAGES)}")
    machine = Machine.measure(args.threads)
    print(machine, file=sys.stderr)

    def rows() -> Iterator[Row]:
        for stage in args.stages or STAGES:
            try:
                works = STAGES[stage](args, machine.peaks)
            except MissingPartError as error:
                if args.stages:
                    raise
                print(f"{stage}: left out, {error}", file=sys.stderr)
                continue
            for work in works:
                yield measure(work, machine.peaks, args.repeats, args.seconds)

    if args.json:
        print(json.dumps({"machine": machine.as_dict(), "rows": [row.as_dict() for row in rows()]}))
        return
    for line in table(rows()):
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(run_command(build_parser(), run))
