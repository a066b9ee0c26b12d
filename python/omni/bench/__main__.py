"""`python -m omni.bench`: how fast each stage runs here, beside this machine's own peaks."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator

from omni.bench import Row, measure, table
from omni.bench.machine import Machine
from omni.bench.stages import STAGES, UNIT, MissingPartError, measure_units
from omni.bench.unit import UnitRow, unit_table
from omni.command import run_command
from omni.errors import InvalidArgumentError
from omni.options import MODEL_OPTIONS, add_options

_OPTIONS = (
    *MODEL_OPTIONS, "threads", "ctx_size", "batch_size", "device", "n_gpu_layers", "kv_type",
    "weight_format", "synthetic", "llm", "layers", "repeats", "seconds", "past", "flow_steps",
    "json", "verbose",
)  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m omni.bench",
        description="Time each stage and hold it against what this machine can do at most: arithmetic for "
        "the weights' type, and reading memory.",
        allow_abbrev=False,
    )
    names = f"{', '.join(STAGES)}; or {UNIT}, a whole second of full duplex"
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"what to measure: {names} (default: all)")
    add_options(parser, _OPTIONS)
    return parser


def run(args: argparse.Namespace) -> None:
    """Measure and print."""
    if not args.synthetic and not args.model and not args.hf_repo:
        raise InvalidArgumentError("give a model with -m or -hf, or --synthetic minicpm-o-4.5")
    for stage in args.stages:
        if stage not in (*STAGES, UNIT):
            names = ", ".join((*STAGES, UNIT))
            raise InvalidArgumentError(f"there is no stage '{stage}'; there are {names}")
    machine = Machine.measure(args.threads)
    print(machine, file=sys.stderr)

    def rows() -> Iterator[Row]:
        for stage in args.stages or STAGES:
            if stage == UNIT:
                continue
            try:
                works = STAGES[stage](args, machine.peaks)
            except MissingPartError as error:
                _leave_out(args, stage, error)
                continue
            for work in works:
                yield measure(work, machine.peaks, args.repeats, args.seconds)

    def units() -> list[UnitRow]:
        if args.stages and UNIT not in args.stages:
            return []
        try:
            return measure_units(args)
        except MissingPartError as error:
            _leave_out(args, UNIT, error)
            return []

    if args.json:
        stage_rows, unit_rows = [row.as_dict() for row in rows()], [row.as_dict() for row in units()]
        print(json.dumps({"machine": machine.as_dict(), "rows": stage_rows, "units": unit_rows}))
        return
    if args.stages != [UNIT]:
        for line in table(rows()):
            print(line, flush=True)
    if measured := units():
        for line in unit_table(measured):
            print(line, flush=True)


def _leave_out(args: argparse.Namespace, stage: str, error: MissingPartError) -> None:
    if args.stages:
        raise error
    print(f"{stage}: left out, {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_command(build_parser(), run))
