"""`python -m omni.bench`: how fast each stage runs here, beside this machine's own peaks."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator

from omni.bench import Row, measure, table
from omni.bench.live import LIVE, measure_live
from omni.bench.machine import Machine
from omni.bench.stages import STAGES, UNIT, MissingPartError, measure_units
from omni.bench.unit import UnitRow, unit_table
from omni.command import run_command
from omni.errors import InvalidArgumentError
from omni.options import MODEL_OPTIONS, adapted, add_options

_OPTIONS = (
    *MODEL_OPTIONS, "threads", "ctx_size", "batch_size", "device", "n_gpu_layers", "kv_type",
    "weight_format", "synthetic", "llm", "layers", "repeats", "seconds", "past", "flow_steps",
    adapted("input", help="live: what the user says"), "ref_audio", "seed",
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
    names = f"{', '.join(STAGES)}; {UNIT}, a whole second of full duplex (default: all of these); or {LIVE}"
    what = f"what to measure: {names}, a conversation at real-time pace"
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=what)
    add_options(parser, _OPTIONS)
    return parser


def run(args: argparse.Namespace) -> None:
    """Measure and print."""
    if not args.synthetic and not args.model and not args.hf_repo:
        raise InvalidArgumentError("give a model with -m or -hf, or --synthetic minicpm-o-4.5")
    for stage in args.stages:
        if stage not in (*STAGES, UNIT, LIVE):
            names = ", ".join((*STAGES, UNIT, LIVE))
            raise InvalidArgumentError(f"there is no stage '{stage}'; there are {names}")
    if LIVE in args.stages and (args.synthetic or len(args.stages) > 1):
        raise InvalidArgumentError(
            f"{LIVE} is measured alone and with a model's files; {UNIT} also with random weights"
        )
    machine = Machine.measure(args.threads)
    print(machine, file=sys.stderr)
    if LIVE in args.stages:
        report = measure_live(args)
        if args.json:
            print(json.dumps({"machine": machine.as_dict(), "live": report.as_dict()}))
        else:
            print("\n".join(report.lines()))
        return

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
