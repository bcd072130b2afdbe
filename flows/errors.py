"""Everything that can go wrong in a way a person can fix, one class each.

A message says what was expected, what came, and the likely fix. The command line prints it without a traceback and
exits with `exit_code`; inside a run the same message lands in the chunk's ledger row.
"""

from __future__ import annotations


class SightflowError(Exception):
    """Base of every error the user can act on."""

    exit_code = 1


class UsageError(SightflowError):
    """An argument or setting that cannot be meant as given."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file or setting that does not parse or does not fit its field."""


class VideoError(SightflowError):
    """A video that is missing, is no video, holds no frames, or cannot be decoded."""


class ModelError(SightflowError):
    """Weights that are missing, damaged, of the wrong kind, or that cannot be fetched."""


class UnknownClassError(UsageError):
    """A class name the detector does not know."""


class OutOfMemoryError(SightflowError):
    """A model step that does not fit the device's memory even with a batch of one."""


class WorkerError(SightflowError):
    """Workers that cannot do any chunk: they die, their models do not load, or results cannot be stored."""


class StoreError(SightflowError):
    """A store that cannot be reached, read or written."""


class RefusedChunkError(StoreError):
    """A chunk its store will not take, or on which the connection is always lost: others may fare better."""


class SchemaVersionError(StoreError):
    """A store written by another version of the schema."""


class ReportError(UsageError):
    """An unknown report, or parameters that do not fit it."""


class CalibrationError(SightflowError):
    """Control points that do not determine a ground plane, or a point that is not on it."""


class TelemetryError(SightflowError):
    """A drone's subtitle file without telemetry, or telemetry that does not say where its camera looked."""


class MissingExtraError(SightflowError):
    """A command that needs an optional part which is not installed."""
