"""Packages that only some uses need: imported when first used, and named with their extra when missing."""

from __future__ import annotations

import importlib
from typing import Any

from omni.errors import UnsupportedError


def import_optional(module: str, extra: str, advice: str = "") -> Any:
    """Import a package of an extra, or say how to get it.

    Args:
        module: what to import.
        extra: the extra that brings it.
        advice: what else to do where the package is there but the system's library below it is not.

    Raises:
        UnsupportedError: it can't be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as e:
        remedy = f"pip install 'omni[{extra}]'"
        raise UnsupportedError(
            f"this needs the package {module!r}, which can't be imported ({e}): {remedy}"
        ) from e
    except OSError as e:  # the wheel is there but its library is not
        remedy = advice or f"pip install 'omni[{extra}]'"
        raise UnsupportedError(f"the package {module!r} can't load its library ({e}): {remedy}") from e
