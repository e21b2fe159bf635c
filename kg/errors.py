"""Named errors that a caller may want to handle; each also is the built-in error it resembles."""

from __future__ import annotations


class SchemaError(ValueError):
    """A schema contradicts itself or the data it is meant to describe."""


class GraphError(ValueError):
    """A table or delta cannot become part of a graph."""


class DuplicateKeyError(GraphError):
    """Two nodes of one type have the same key."""


class DanglingEdgeError(GraphError):
    """An edge names a node that does not exist."""


class MissingColumnError(GraphError):
    """A table or query result lacks a column that is required."""


class AlignmentError(ValueError):
    """Two values that must agree row by row do not."""


class UnknownNodeError(LookupError):
    """A key that is not in the vocabulary of its node type."""


class StoreError(RuntimeError):
    """A store refused or failed to do what was asked."""


class StoreUnavailableError(StoreError, ConnectionError):
    """No store answers at the address given."""


class StoreAuthError(StoreError, PermissionError):
    """The store answered and rejected the user name or password."""


class SavedFileError(ValueError):
    """A saved folder is incomplete, was changed after it was written, or is of a newer version."""


class DatasetError(ConnectionError):
    """A public data set cannot be fetched, or what came is not what was published."""


class DependencyError(ImportError):
    """An optional package that this call needs is not installed."""


def how_to_install(extra: str) -> str:
    """What to run for an optional package: ``pip install '.[pyg]' in a clone of kg-coldstart``."""
    return f"pip install '.[{extra}]' in a clone of kg-coldstart"


class TrainingError(ArithmeticError):
    """Training came to a number that is none; the last good checkpoint stays."""
