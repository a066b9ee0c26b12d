"""Fixtures that all tests share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from omni.convert import Options, convert

# Graphs of a tiny model gain nothing from a second thread and lose whole time slices at its barriers whenever
# the machine is busy, so that a run takes minutes longer: the tests use one processor.
if hasattr(os, "sched_setaffinity"):
    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {processors[os.getpid() % len(processors)]})

# A run in the background of a shell ignores Ctrl-C, and the programs under test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden() -> Path:
    """The directory with the reference data."""
    return GOLDEN


@pytest.fixture(scope="session")
def tiny_checkpoint() -> Path:
    """The tiny checkpoint in Hugging Face form."""
    return GOLDEN / "tiny"


@pytest.fixture(scope="session")
def tiny_model_dir(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint converted to F32: a model directory in the official layout."""
    out = tmp_path_factory.mktemp("tiny-f32")
    convert(tiny_checkpoint, out, Options.uniform("F32"))
    return out
