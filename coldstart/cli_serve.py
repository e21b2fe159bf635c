"""Commands of an engine in use: serve it over HTTP, refit it from what was heard."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from coldstart import cli_loading

KEY_VARIABLE = "COLDSTART_API_KEY"


def add_commands(commands: Any) -> None:
    """Add the commands of this module to those of ``coldstart``."""
    serving = commands.add_parser("serve", help="a saved engine over HTTP, with a page")
    serving.add_argument("model", help="folder of a saved engine")
    serving.add_argument("--state", help="folder of changes and snapshots (default: MODEL.state)")
    serving.add_argument("--host", default="127.0.0.1", help="address to listen on")
    serving.add_argument("--port", type=int, default=8000, help="0: any that is free")
    serving.add_argument(
        "--open",
        action="store_true",
        help="let everybody ask; without it a request must carry, in the header X-API-Key, the key "
        f"in ${KEY_VARIABLE} (or one of several by comma)",
    )
    serving.add_argument("--max-bytes", type=int, default=2_000_000, help="of a request's body")
    serving.add_argument("--snapshot-every", type=int, default=1000, help="changes")
    serving.add_argument(
        "--report", help="what `coldstart evaluate --json` printed, to be shown on the page"
    )
    cli_loading.add_option(serving)
    serving.set_defaults(run=_serve)

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
    cli_loading.add_option(refitting)
    refitting.set_defaults(run=_refit)


def state_of(model: str) -> str:
    """Where a server of a model keeps changes and snapshots, unless it is told another place."""
    return f"{model.rstrip('/')}.state"


def _serve(arguments: argparse.Namespace) -> None:
    keys = tuple(k.strip() for k in os.environ.get(KEY_VARIABLE, "").split(",") if k.strip())
    if not keys and not arguments.open:
        raise ValueError(
            f"requests would need no key; set ${KEY_VARIABLE}, or pass --open to let everybody ask"
        )
    cli_loading.require_engine(arguments.model)
    from coldstart.serving.durable import DurableEngine
    from kg.errors import DependencyError, how_to_install

    try:
        from coldstart.serving.app import create_app
        from coldstart.serving.looking import read_report
        from coldstart.serving.running import run
    except ImportError as error:
        raise DependencyError(f"serving needs {error.name}: {how_to_install('serve')}") from error
    durable = DurableEngine(
        arguments.model,
        arguments.state or state_of(arguments.model),
        snapshot_every=arguments.snapshot_every,
        load=cli_loading.loader(arguments),
    )

    def say(address: str) -> None:
        graph = durable.current.engine.graph  # not kept, though it is replaced
        sizes = f"{len(graph.users)} users and {len(graph.items)} items"
        print(f"serving {sizes} at {address}; Ctrl-C to stop", file=sys.stderr, flush=True)

    try:
        report = read_report(arguments.report) if arguments.report else None
        app = create_app(durable, api_keys=keys, max_bytes=arguments.max_bytes, report=report)
        run(durable, app, arguments.host, arguments.port, say)
    finally:
        durable.close()  # if the server came to no end of its own


def _refit(arguments: argparse.Namespace) -> None:
    from coldstart.feedback import FeedbackEvent
    from coldstart.journal import read_journal
    from coldstart.refitting import refit

    events = []
    if arguments.log:
        if not Path(arguments.log).exists():
            raise ValueError(f"there is no event log at {arguments.log}; check the path")
        try:
            events = [FeedbackEvent(**record) for record in read_journal(arguments.log)]
        except TypeError as error:
            raise ValueError(
                f"{arguments.log}: expected events as EventLog of coldstart.feedback writes them, "
                f"got other records ({error}); check the path"
            ) from error
    found = refit(
        cli_loading.loader(arguments)(arguments.model),
        events,
        days=arguments.days,
        tolerance=arguments.tolerance,
        rng=arguments.seed,
    )
    if found.promoted:
        found.engine.save(arguments.model)
    print(json.dumps(found.to_dict(), indent=1) if arguments.json else found)
