"""Types of the extension module; the omni package wraps it."""

from collections.abc import Callable

def set_log_sink(callback: Callable[[int, str], None] | None, minimum: int = 1) -> None: ...
