"""Commands of an engine in use: refit it from what was heard."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add_commands(commands: Any) -> None:
    """Add the commands of this module to those of ``coldstart``."""
    refitting = commands.add_parser(
        "refit", help="train a saved engine anew on what it heard, unless that makes it worse"
    )
    refitting.add_argument("model", help="folder of a saved engine; replaced if the new one passes")
    refitting.add_argument("--log", help="events that the engine has not heard yet, an event log")
    refitting.add_argument("--days", type=float, default=7.0, help="last days held out to compare")
    refitting.add_argument(
        "--tolerance", type=float, default=0.0, help="NDCG@20 that a new engine may lose"
    )
    refitting.add_argument("--seed", type=int, default=0)
    refitting.add_argument("--json", action="store_true", help="print the report as JSON instead")
    refitting.set_defaults(run=_refit)


def _refit(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from coldstart.engine import ColdStartEngine
    from coldstart.feedback import FeedbackEvent
    from coldstart.journal import read_journal
    from coldstart.refitting import refit

    events = []
    if arguments.log:
        if not Path(arguments.log).exists():
            raise ValueError(f"there is no event log at {arguments.log}; check the path")
        events = [FeedbackEvent(**record) for record in read_journal(arguments.log)]
    found = refit(
        ColdStartEngine.load(arguments.model),
        events,
        days=arguments.days,
        tolerance=arguments.tolerance,
        rng=arguments.seed,
    )
    if found.promoted:
        found.engine.save(arguments.model)
    print(json.dumps(found.to_dict(), indent=1) if arguments.json else found)
