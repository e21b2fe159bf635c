"""The command ``coldstart``: strings from the shell turn into values here and nowhere else."""

from __future__ import annotations

import argparse
import csv
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coldstart import (
    cli_encoders,
    cli_evaluate,
    cli_given,
    cli_graph,
    cli_loading,
    cli_serve,
    cli_update,
    cli_vectors,
)

if TYPE_CHECKING:
    from coldstart.ranking import Recommendations
    from kg.graph import KnowledgeGraph
    from kg.vectors import Vocabulary

_LIKES = "Star Wars,The Terminator"
_ROLES = ("schema", "user", "item", "interaction", "positive_weight")


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 on success, 1 after an error that is told in one line, 130 on Ctrl-C."""
    arguments = parser().parse_args(argv)
    logging.basicConfig(
        level=logging.DEBUG if arguments.verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )
    try:
        arguments.run(arguments)
    except KeyboardInterrupt:
        print("\nstopped; what was cached stays, run the same command again", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except (ValueError, LookupError, RuntimeError, OSError, ImportError) as error:
        if arguments.verbose:
            raise
        print(f"coldstart {arguments.command}: {error}", file=sys.stderr)
        return 1
    return 0


class _Command(argparse.ArgumentParser):
    """The parser of one command, which tells what it does not know with its own usage."""

    def parse_known_args(self, *given: Any, **named: Any) -> Any:
        """What was given; exits where something is left."""
        found, unknown = super().parse_known_args(*given, **named)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown


class _Described:
    """Commands whose own help begins with what the list of commands says of them."""

    def __init__(self, commands: Any) -> None:
        self._commands = commands

    def add_parser(self, name: str, *, help: str, **more: Any) -> argparse.ArgumentParser:
        """As of what ``add_subparsers`` gives."""
        described = {"description": f"{help[0].upper()}{help[1:]}.", **more}
        return self._commands.add_parser(name, help=help, **described)


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    out = argparse.ArgumentParser(
        prog="coldstart",
        description="Recommendations for users and items nobody has seen, from a knowledge graph.",
    )
    out.add_argument("--verbose", action="store_true", help="log everything, show tracebacks")
    commands = _Described(
        out.add_subparsers(dest="command", required=True, metavar="command", parser_class=_Command)
    )

    demo = commands.add_parser("demo", help="the whole line on MovieLens 100K, in three minutes")
    demo.add_argument("--title", default="The Clockwork Garden", help="a film nobody has rated")
    demo.add_argument("--genres", default="Animation,Fantasy", help="its genres, by comma")
    demo.add_argument("--year", type=int, default=1998, help="its year")
    demo.add_argument(
        "--likes",
        action="append",
        metavar="TITLE",
        help="a film that a new person names; give it several times, one whole title each, or once "
        f"with titles by comma, those with a comma in double quotes (default: {_LIKES})",
    )
    demo.add_argument("--splits", type=int, default=3, help="random splits to compare on")
    demo.add_argument(
        "--out", default="out/demo", help="folder for store, model, table and picture"
    )
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--json", action="store_true", help="print the results as JSON instead")
    demo.set_defaults(run=_demo)

    fit = commands.add_parser("fit", help="train an engine on a graph in a folder or a store")
    fit.add_argument("graph", help="folder of a graph (coldstart import), or an embedded store")
    fit.add_argument("model", help="folder to write the engine to")
    fit.add_argument("--schema", help="TOML file with the roles of types and properties of a store")
    fit.add_argument("--user", help="node type of users, where there is no schema file")
    fit.add_argument("--item", help="node type of items")
    fit.add_argument("--interaction", help="relation from users to items")
    fit.add_argument("--positive-weight", type=float, help="from which weight one is positive")
    fit.add_argument(
        "--cold-boost",
        type=float,
        help="lift of items without interactions among known ones, 0 for none; without it, what a "
        "simulation at training finds",
    )
    fit.add_argument(
        "--graph-encoder",
        default="propagation",
        help="propagation (the default), sage, gat, rgcn or hgt, or both as in propagation+sage",
    )
    cli_vectors.add_option(fit)
    cli_loading.add_option(fit)
    fit.add_argument("--seed", type=int, default=0)
    fit.set_defaults(run=_fit)

    recommend = commands.add_parser("recommend", help="items for users, from a saved engine")
    _add_lists(recommend, "users")
    recommend.set_defaults(run=_recommend)

    audience = commands.add_parser("audience", help="users for items, from a saved engine")
    _add_lists(audience, "items")
    audience.set_defaults(run=_audience)

    explain = commands.add_parser("explain", help="why a user gets an item, from a saved engine")
    explain.add_argument("model", help="folder of a saved engine")
    explain.add_argument("user", help="key of a user")
    explain.add_argument("item", help="key of an item")
    explain.add_argument("--removal", action="store_true", help="take edges away and recompute")
    explain.add_argument("--plot", help="also draw paths and parts, to this PNG file")
    explain.add_argument("--cypher", action="store_true", help="print queries that show the paths")
    explain.add_argument("--json", action="store_true", help="print JSON instead")
    cli_given.add_option(explain)
    cli_loading.add_option(explain)
    explain.set_defaults(run=_explain)

    cli_evaluate.add_command(commands)
    cli_update.add_commands(commands)
    cli_serve.add_commands(commands)
    cli_graph.add_commands(commands)
    cli_encoders.add_commands(commands)
    return out


def _add_lists(command: argparse.ArgumentParser, whose: str) -> None:
    command.add_argument("model", help="folder of a saved engine")
    command.add_argument(whose, nargs="+", help=f"keys of {whose}")
    command.add_argument("-k", type=int, default=10, help="list length (default: 10)")
    command.add_argument(
        "--json", action="store_true", help="one JSON object a line, with what stands behind it"
    )
    cli_given.add_option(command)
    cli_loading.add_option(command)


def _demo(arguments: argparse.Namespace) -> None:
    from coldstart.demo import Film, run_demo

    film = Film(arguments.title, tuple(_listed(arguments.genres)), arguments.year)
    say = (lambda sentence: None) if arguments.json else print
    found = run_demo(
        Path(arguments.out),
        film,
        _titles(arguments.likes or [_LIKES]),
        num_splits=arguments.splits,
        seed=arguments.seed,
        say=say,
    )
    if arguments.json:
        print(json.dumps(found, indent=1, default=str))


def _fit(arguments: argparse.Namespace) -> None:
    import numpy as np

    from coldstart.engine import ColdStartEngine, EngineConfig

    lift = "auto" if arguments.cold_boost is None else arguments.cold_boost
    config = EngineConfig(graph_encoder=arguments.graph_encoder, cold_boost=lift)
    vectors = cli_vectors.read_vectors(arguments.vectors)
    encoders = cli_loading.graph_encoders(arguments)
    graph = _graph_to_fit(arguments)
    print(graph)
    engine = ColdStartEngine.fit(
        graph,
        config,
        vectors=vectors,
        graph_encoders=encoders,
        rng=arguments.seed,
        progress=True,
    )
    engine.save(arguments.model)
    print(f"engine with {engine.dim} dimensions written to {arguments.model}")
    bare = len(engine.graph.items) - len(np.unique(engine.graph.interactions.index[1]))
    if bare and engine.cold_boost > 0:
        print(
            f"{bare} of {len(engine.graph.items)} {graph.schema.item} nodes without interactions "
            "are taken for new ones and stand high in the lists of all; if they are old ones that "
            "nobody wanted, say --cold-boost 0"
        )


def _graph_to_fit(arguments: argparse.Namespace) -> KnowledgeGraph:
    from dataclasses import replace

    from kg.files import read_graph
    from kg.stores import LadybugStore

    if not (path := Path(arguments.graph)).exists():
        raise ValueError(f"there is no graph folder or store at {path}; check the path")
    if path.is_dir():
        cli_graph.refuse(arguments, _ROLES, cli_graph.IN_FOLDER)
        return read_graph(path)
    with LadybugStore(path, read_only=True) as store:
        if arguments.schema:
            cli_graph.refuse(arguments, _ROLES[1:4], cli_graph.IN_SCHEMA)
            schema = cli_graph.read_schema(arguments.schema)
        elif arguments.user and arguments.item and arguments.interaction:
            schema = store.infer_schema(
                user=arguments.user, item=arguments.item, interaction=arguments.interaction
            )
        else:
            raise ValueError(
                f"{path} is a file, so it must be an embedded store, of which no schema is known: "
                "give --schema FILE, or --user, --item and --interaction; CSV and other tables: "
                "`coldstart import FOLDER --tables FILE` first"
            )
        if arguments.positive_weight is not None:
            schema = replace(schema, positive_weight=arguments.positive_weight)
        return store.read(schema, progress=True)


def _recommend(arguments: argparse.Namespace) -> None:
    _require_length(arguments)
    engine = cli_given.engine_of(arguments)
    keys = _keys(engine.graph.users, arguments.users)
    found = engine.recommend(keys, arguments.k, evidence=arguments.json)
    _print_lists(found, engine.graph, of="user", to="item", as_json=arguments.json)


def _audience(arguments: argparse.Namespace) -> None:
    _require_length(arguments)
    engine = cli_given.engine_of(arguments)
    keys = _keys(engine.graph.items, arguments.items)
    found = engine.audience(keys, arguments.k, evidence=arguments.json)
    _print_lists(found, engine.graph, of="item", to="user", as_json=arguments.json)


def _require_length(arguments: argparse.Namespace) -> None:
    if arguments.k < 1:
        raise ValueError(f"-k: lists have at least one place, got {arguments.k}")


def _print_lists(
    found: Recommendations, graph: KnowledgeGraph, *, of: str, to: str, as_json: bool
) -> None:
    """A line for each place of each list: whose, rank, key, score, and a name if there is one."""
    from coldstart.paths import name_of

    nodes = graph.items if to == "item" else graph.users
    for row in found.to_pylist():
        name = name_of(graph, nodes.node_type, nodes.row(row[to]))
        if as_json:
            print(json.dumps(row | {"name": name}, default=str))
            continue
        place = [row[of], row["rank"], row[to], f"{row['score']:.4f}"]
        told = [" ".join(name.split())] if name != str(row[to]) else []
        print(*place, *told, sep="\t")


def _explain(arguments: argparse.Namespace) -> None:
    engine = cli_given.engine_of(arguments)
    graph = engine.graph
    try:
        (user,), (item,) = (
            _keys(graph.users, [arguments.user]),
            _keys(graph.items, [arguments.item]),
        )
        graph.users.rows([user])  # told here where it is unknown, as the two are easily swapped
        graph.items.rows([item])
    except (ValueError, LookupError) as error:
        schema = graph.schema
        raise ValueError(f"{error} (first the {schema.user}, then the {schema.item})") from error
    found = engine.explain(user, item, removal=arguments.removal)
    if arguments.plot:
        found.plot(arguments.plot)
    if arguments.json:
        print(json.dumps(found.to_dict(), indent=1, default=str))
        return
    print(found.to_text())
    for path in found.paths if arguments.cypher else ():
        query = path.cypher()
        print(f"\n{query.cypher}\nparameters: {json.dumps(query.parameters, default=str)}")


def _keys(nodes: Vocabulary, given: list[str]) -> list[Any]:
    """Keys from the command line in the type that the model has for them."""
    if not nodes.is_int:
        return list(given)
    keys = []
    for key in given:
        try:
            keys.append(int(key))
        except ValueError:
            raise ValueError(
                f"keys of {nodes.node_type} are whole numbers in this model, got {key!r}; check "
                "the key"
            ) from None
    return keys


def _titles(given: list[str]) -> list[str]:
    """Each value is a title where there are several, a list by comma where there is one."""
    several = [title.strip() for title in given if title.strip()]
    return several if len(given) > 1 else _listed(given[0])


def _listed(text: str) -> list[str]:
    """The parts between commas; a part with a comma of its own stands in double quotes."""
    return [
        part.strip() for part in next(csv.reader([text], skipinitialspace=True)) if part.strip()
    ]


if __name__ == "__main__":
    raise SystemExit(main())
