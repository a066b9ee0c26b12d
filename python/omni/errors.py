"""The exceptions that omni raises. All derive from OmniError and carry a message that says what to do."""

from __future__ import annotations


class OmniError(Exception):
    """Base class of everything that omni raises on purpose."""


class InvalidArgumentError(OmniError, ValueError):
    """A value that the caller gave is unusable."""


class ModelFileError(OmniError, OSError):
    """A file is missing or can't be read."""


class FormatError(OmniError, ValueError):
    """A file's content is damaged or belongs to another model."""


class UnsupportedError(OmniError):
    """Well-formed, but this build or device can't do it."""


class ContextFullError(OmniError):
    """The KV cache has no room for the tokens; raise n_ctx or remove a span."""


class OutOfMemoryError(OmniError, MemoryError):
    """Not enough memory on the machine or the device."""


class DeviceError(OmniError, RuntimeError):
    """A compute device failed or was lost."""


class CancelledError(OmniError):
    """The work was stopped on request."""
