"""Facts about this machine: memory, disk, compute devices, how busy it is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import omni
from omni.hub.remote import repository


def compute_devices() -> list[dict[str, Any]]:
    """What this build can compute on, memory in bytes."""
    return [
        {
            "name": device.name,
            "kind": device.kind,
            "description": device.description,
            "memory_total": device.memory_total,
        }
        for device in omni.list_devices()
    ]


def download_folder() -> Path:
    """Where downloaded models are kept."""
    return repository("huggingface", "openbmb/MiniCPM-o-4_5-gguf", None, None).cache_folder


def free_disk(folder: Path) -> int | None:
    """Bytes that are free where a folder is or would be."""
    for place in (folder, *folder.parents):
        if place.exists():
            try:
                return shutil.disk_usage(place).free
            except OSError:
                return None
    return None


def load() -> float | None:
    """Processors' worth of work that other programs had in the last minute; None: unknown."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None
