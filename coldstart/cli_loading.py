"""The option ``--graph-encoder-class``, and how commands load a saved engine."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coldstart.engine import ColdStartEngine
    from gnn.encoding import GraphEncoder

OPTION = "--graph-encoder-class"


def add_option(command: argparse.ArgumentParser) -> None:
    """Add ``--graph-encoder-class`` to a command."""
    command.add_argument(
        OPTION,
        action="append",
        default=[],
        metavar="MODULE:NAME",
        help="a graph encoder of your own that the engine has beside the one it names: a class, or "
        "a function that returns one, called without arguments; the module is installed, or lies "
        "in the folder where the command runs; give it once for each",
    )


def loader(arguments: argparse.Namespace) -> Callable[[str | Path], ColdStartEngine]:
    """What loads a saved engine with the encoders that the option names.

    Raises:
        ValueError: see :func:`graph_encoders`.
    """
    return partial(_load, graph_encoders=graph_encoders(arguments))


def _load(folder: str | Path, *, graph_encoders: list[GraphEncoder]) -> ColdStartEngine:
    require_engine(folder)
    from coldstart.engine import ColdStartEngine

    return ColdStartEngine.load(folder, graph_encoders=graph_encoders)


def require_engine(folder: str | Path) -> None:
    """Raise where no engine was saved, before torch is imported, which takes seconds.

    Raises:
        SavedFileError: there is no such folder.
    """
    from kg.errors import SavedFileError
    from kg.files import leftovers

    path = Path(folder).absolute()
    # A writer that was killed may have left it under another name, from which loading recovers.
    if not path.exists() and not leftovers(path, "old"):
        raise SavedFileError(
            f"no saved cold-start engine at {path}: there is no such folder; check the path"
        )


def graph_encoders(arguments: argparse.Namespace) -> list[GraphEncoder]:
    """The encoders that the option names, made.

    Raises:
        ValueError: a value is not of that form, its module cannot be imported or does not have the
            name, it cannot be called without arguments, or what comes is no graph encoder.
    """
    return [_made(value) for value in arguments.graph_encoder_class]


def _made(value: str) -> GraphEncoder:
    module, _, name = value.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), name)):
        raise ValueError(f"{OPTION}: expected MODULE:NAME, such as mine.encoders:Mine, got {value}")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # last, so that nothing installed is hidden by what lies here
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{OPTION} {value} is not found: {error}; check the name, install its module, or run "
            "the command in the folder where the module lies"
        ) from error
    try:
        made = found()
    except TypeError as error:
        raise ValueError(
            f"{OPTION} {value} cannot be called without arguments ({error}); name a class, or "
            "write a function, that takes none"
        ) from error
    kinds = getattr(made, "kinds", None)
    if not callable(getattr(made, "fit", None)) or not isinstance(kinds, tuple):
        raise ValueError(
            f"{OPTION} {value}: expected a gnn.encoding.GraphEncoder, with fit() and a tuple of "
            f"kinds, got a {type(made).__name__}; name the class of the encoder"
        )
    return made
