"""Commands about graphs and stores, apart from what an engine does with them."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from coldstart import cli_loading

if TYPE_CHECKING:
    from kg.graph import KnowledgeGraph
    from kg.importing import Import
    from kg.schema import Schema
    from kg.stores.base import CypherStore
    from kg.stores.inference import StoreContents
    from kg.vectors import Key, Vocabulary

PASSWORD_VARIABLE = "NEO4J_PASSWORD"
_ROLES = ("schema", "user_type", "item_type", "interaction", "positive_weight")
OF_SERVER = ("login", "database", "timeout", "query_timeout")
NO_SERVER = "this is for a server, and the graph is in a file or folder"
IN_FOLDER = "a graph folder has its schema in it"
IN_SCHEMA = "the schema file says this"
_AS_OPTIONS = {
    "on_missing='skip'": "--skip-missing",
    "on_dangling='skip'": "--skip-dangling",
    "index=False": "--no-index",
}
"""What messages advise, by the name it has here."""


def add_commands(commands: Any) -> None:
    """Add the commands of this module to those of ``coldstart``."""
    importing = commands.add_parser(
        "import",
        help="a graph from a server, store or files into a folder; later only what changed",
    )
    importing.add_argument("folder", help="where the graph goes, whole or not at all")
    add_source(importing, tables=True)
    importing.add_argument(
        "--infer",
        metavar="FILE",
        help="import nothing: show what there is and write a schema to edit, as TOML",
    )
    importing.add_argument("--updated-at", help="property that grows with every change")
    importing.add_argument("--full", action="store_true", help="read everything again")
    importing.add_argument(
        "--skip-dangling", action="store_true", help="leave out edges to nowhere"
    )
    importing.add_argument("--quiet", action="store_true", help="show no bar")
    importing.set_defaults(run=_import)

    estimating = commands.add_parser(
        "estimate", help="memory, disk and time that a run will take on this machine, beforehand"
    )
    add_source(estimating, graph=True, first=True)
    estimating.add_argument("--cache", help="folder of text vectors, if not the usual one")
    estimating.add_argument("--out", help="folder on the disk that will be written to")
    estimating.add_argument(
        "--graph-encoder", default="propagation", help="of coldstart fit, as in propagation+sage"
    )
    estimating.add_argument("--json", action="store_true", help="bytes and seconds, as JSON")
    estimating.set_defaults(run=_estimate)

    audit = commands.add_parser("audit", help="what is wrong with a graph, with figures and rows")
    add_source(audit, graph=True, first=True)
    audit.add_argument("--plot", help="also draw the figures, to this PNG file")
    audit.add_argument("--all", action="store_true", help="show what is in order, too")
    audit.add_argument(
        "--strict", action="store_true", help="end with status 1 if there are faults"
    )
    audit.add_argument("--seed", type=int, default=0, help="of the shuffles")
    audit.add_argument("--json", action="store_true", help="print the findings as JSON instead")
    audit.set_defaults(run=_audit)

    back = commands.add_parser(
        "write-back", help="put embeddings and recommendations of a saved engine into a store"
    )
    back.add_argument("model", help="folder of a saved engine")
    add_place(back)
    back.add_argument("--recommend", type=int, metavar="K", help="also write K items per user")
    back.add_argument("--no-index", action="store_true", help="make no vector index")
    back.add_argument("--skip-missing", action="store_true", help="count nodes that are not there")
    back.add_argument("--dry-run", action="store_true", help="say what would be written")
    cli_loading.add_option(back)
    back.set_defaults(run=_write_back)

    erasing = commands.add_parser(
        "erase", help="remove a person or item everywhere, and search what is left for it"
    )
    whom = erasing.add_mutually_exclusive_group(required=True)
    whom.add_argument("--user", help="key of a user")
    whom.add_argument("--item", help="key of an item")
    add_place(erasing, required=False)
    erasing.add_argument("--type", help="node type, where no model or graph folder tells it")
    erasing.add_argument("--model", action="append", default=[], help="folder of a saved engine")
    erasing.add_argument("--graph", action="append", default=[], help="folder of a saved graph")
    erasing.add_argument(
        "--log",
        action="append",
        default=[],
        help="file of an event log, which nothing may be writing to meanwhile",
    )
    erasing.add_argument(
        "--state",
        help="of `coldstart serve`, where there is one --model (default: MODEL.state, if there)",
    )
    erasing.add_argument("--cache", help="folder of text vectors, if not the usual one")
    erasing.add_argument("--json", action="store_true", help="print the report as JSON instead")
    cli_loading.add_option(erasing)
    erasing.set_defaults(run=_erase)


class _Given(argparse.Action):
    """A folder or an embedded store, without the option that says which."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        if values is not None:
            setattr(namespace, "store" if Path(values).is_file() else "graph", values)


def add_source(
    command: argparse.ArgumentParser,
    *,
    graph: bool = False,
    first: bool = False,
    tables: bool = False,
) -> None:
    """Options that say where a graph is and what is what in it."""
    add_place(command, graph=graph, first=first, tables=tables)
    roles = command.add_argument_group("what is what in it")
    roles.add_argument("--schema", help="TOML file; without it the schema is inferred")
    roles.add_argument("--user-type", help="node type of users, where there is no schema file")
    roles.add_argument("--item-type", help="node type of items")
    roles.add_argument("--interaction", help="relation from users to items")
    roles.add_argument("--positive-weight", type=float, help="from which weight one is positive")


def add_place(
    command: argparse.ArgumentParser,
    *,
    graph: bool = False,
    first: bool = False,
    tables: bool = False,
    required: bool = True,
) -> None:
    """Options that name a server, an embedded store or, if asked, a folder or tables.

    With ``first`` a folder or an embedded store may also come without its option, as ``coldstart
    fit`` has it.
    """
    place = command.add_argument_group("where the graph is")
    where = place.add_mutually_exclusive_group(required=required)
    where.add_argument("--uri", help="of a Neo4j server: neo4j://, bolt://, or with +s for TLS")
    where.add_argument("--store", help="file of an embedded store")
    if graph:
        where.add_argument("--graph", help="folder that `coldstart import` wrote")
    if first:
        where.add_argument(
            "given",
            nargs="?",
            action=_Given,
            metavar="graph",
            help="--store or --graph, whichever is there",
        )
    if tables:
        where.add_argument(
            "--tables", help="TOML file that says what is what and in which CSV, Parquet or JSON"
        )
    place.add_argument(
        "--login",
        help="user name at the server, by default $NEO4J_USER or neo4j; the password is taken from "
        f"${PASSWORD_VARIABLE} or asked for, never from an option",
    )
    place.add_argument("--database", help="at the server, if not its default")
    place.add_argument("--timeout", type=float, help="seconds to wait for the server (15)")
    place.add_argument("--query-timeout", type=float, help="seconds that one query may take there")


def open_store(arguments: argparse.Namespace, *, read_only: bool = True) -> CypherStore:
    """The store that the options of :func:`add_place` name.

    Raises:
        ValueError: there is no such file, no password can be had, or an option is for a server and
            the store is a file.
    """
    from kg.stores import LadybugStore, Neo4jStore

    if arguments.store:
        refuse(arguments, OF_SERVER, NO_SERVER)
        if not Path(arguments.store).exists():
            raise ValueError(f"there is no store at {arguments.store}; check the path")
        return LadybugStore(arguments.store, read_only=read_only)
    if urlsplit(arguments.uri).password:
        raise ValueError(
            "a password in --uri stays in the shell's history and in lists of processes; leave it "
            f"out and set ${PASSWORD_VARIABLE} or type it when asked"
        )
    login = arguments.login or os.environ.get("NEO4J_USER", "neo4j")
    return Neo4jStore(
        arguments.uri,
        (login, _password(login)),
        arguments.database,
        timeout=15.0 if arguments.timeout is None else arguments.timeout,
        query_timeout=arguments.query_timeout,
        read_only=read_only,
    )


def _password(login: str) -> str:
    if (password := os.environ.get(PASSWORD_VARIABLE)) is not None:
        return password
    if not sys.stdin.isatty():
        raise ValueError(f"the password of {login!r} is not known; set ${PASSWORD_VARIABLE}")
    return getpass.getpass(f"password of {login}: ")


def schema_for(arguments: argparse.Namespace, store: CypherStore) -> Schema:
    """The schema that the options name, or the one that the store suggests."""
    from dataclasses import replace

    if arguments.schema:
        refuse(arguments, _ROLES[1:4], IN_SCHEMA)
        schema = read_schema(arguments.schema)
    else:
        schema = store.infer_schema(arguments.user_type, arguments.item_type, arguments.interaction)
    if arguments.positive_weight is not None:
        schema = replace(schema, positive_weight=arguments.positive_weight)
    return schema


def read_schema(path: str) -> Schema:
    """The schema in a file that an option names.

    Raises:
        ValueError: there is no such file.
        SchemaError: it holds no schema.
    """
    from kg.schema import Schema

    if not Path(path).is_file():
        raise ValueError(
            f"there is no schema file at {path}; check the path, or have one written by "
            f"`coldstart import graph/ --store FILE --infer {path}`"
        )
    return Schema.read(path)


def refuse(arguments: argparse.Namespace, names: Iterable[str], why: str) -> None:
    """Raise where an option is given that would not be looked at.

    Raises:
        ValueError: one of them is given.
    """
    for name in names:
        if getattr(arguments, name, None) is not None:
            raise ValueError(f"--{name.replace('_', '-')}: {why}; leave the option out")


def graph_from(arguments: argparse.Namespace) -> KnowledgeGraph:
    """The graph that the options of :func:`add_source` name."""
    if getattr(arguments, "graph", None):
        from kg.files import read_graph

        refuse(arguments, _ROLES, IN_FOLDER)
        refuse(arguments, OF_SERVER, NO_SERVER)
        return read_graph(arguments.graph)
    with open_store(arguments) as store:
        return store.read(schema_for(arguments, store), progress=sys.stderr.isatty())


def _import(arguments: argparse.Namespace) -> None:
    from kg.errors import DanglingEdgeError
    from kg.importing import import_graph, import_tables

    on_dangling = "skip" if arguments.skip_dangling else "error"
    if arguments.tables:
        refuse(arguments, _ROLES, "the file of --tables says this")
        refuse(arguments, OF_SERVER, NO_SERVER)
        refuse(arguments, ("infer", "updated_at"), "this is for stores, and tables are in files")
        if not Path(arguments.tables).is_file():
            raise ValueError(f"there is no file at {arguments.tables}; check the path")
        try:
            found = import_tables(
                arguments.tables, arguments.folder, full=arguments.full, on_dangling=on_dangling
            )
        except DanglingEdgeError as error:
            raise ValueError(_with_options(error)) from error
        _tell_import(found)
        return
    with open_store(arguments) as store:
        if arguments.infer:
            if Path(arguments.infer).exists():
                raise ValueError(
                    f"{arguments.infer} is there already; move it or name another file"
                )
            schema, contents = schema_for(arguments, store), store.contents()
            print(contents.to_text())
            schema.write(arguments.infer)
            print(f"schema written to {arguments.infer}; edit it, then import with --schema")
            if told := _about_weights(schema, contents):
                print(told)
            return
        found = import_graph(
            store,
            arguments.folder,
            schema_for(arguments, store),
            updated_at=arguments.updated_at,
            full=arguments.full,
            on_dangling=on_dangling,
            progress=not arguments.quiet,
        )
    _tell_import(found)


def _about_weights(schema: Schema, contents: StoreContents) -> str | None:
    """What to decide where interactions have weights and all of them would count alike."""
    import pyarrow as pa
    import pyarrow.compute as pc

    seen = contents.edges.get(schema.interaction)
    if schema.positive_weight is not None or seen is None:
        return None
    if schema.weight not in seen.sample.column_names:
        return None
    weights = seen.sample[schema.weight].drop_null()
    if not (pa.types.is_integer(weights.type) or pa.types.is_floating(weights.type)):
        return None
    ends = pc.min_max(weights).as_py()  # pyright: ignore
    if ends["min"] == ends["max"]:
        return None
    return (
        f"{schema.weight} of {schema.interaction[1]} goes from {ends['min']:g} to {ends['max']:g} "
        f"in the {len(weights)} looked at, and all of them count as liked; if low ones are "
        "dislikes, put positive_weight = (from which on it is a like) at the top of the schema"
    )


def _tell_import(found: Import) -> None:
    from kg.wording import counted

    if found.changes is not None:
        print(found.changes)
    for edge_type, count in found.graph.skipped.items():
        told = counted(count, f"{'-'.join(edge_type)} edge")
        print(f"{told} left out, for an end is missing")
    print(found.graph)


def _estimate(arguments: argparse.Namespace) -> None:
    from kg.outlining import outline_folder, outline_store

    if arguments.graph:
        refuse(arguments, _ROLES, IN_FOLDER)
        refuse(arguments, OF_SERVER, NO_SERVER)
        outline = outline_folder(arguments.graph)
    else:
        with open_store(arguments) as store:
            outline = outline_store(store, schema_for(arguments, store))
    # Only now torch is loaded: an import does without, and its memory is told from that of now.
    from coldstart.engine import EngineConfig
    from coldstart.estimating import estimate
    from encoders.cache import VectorCache

    config = EngineConfig(graph_encoder=arguments.graph_encoder)
    cache = VectorCache(arguments.cache)
    found = estimate(outline, config=config, cache=cache, folder=arguments.out)
    print(json.dumps(found.to_dict(), indent=1) if arguments.json else found.to_text())


def _audit(arguments: argparse.Namespace) -> None:
    from kg import audit
    from kg.wording import counted

    found = audit(graph_from(arguments), rng=arguments.seed)
    if arguments.plot:
        from coldstart.plots import plot_audit

        plot_audit(found, Path(arguments.plot))
    if arguments.json:
        print(json.dumps(found.to_dict(), indent=1, default=str))
    else:
        print(found.to_text(every=arguments.all))
    if arguments.strict and found.faults:
        raise ValueError(f"{counted(len(found.faults), 'fault')}, told above")


def _write_back(arguments: argparse.Namespace) -> None:
    from coldstart.writing_back import write_back
    from kg.errors import DependencyError, UnknownNodeError

    engine = cli_loading.loader(arguments)(arguments.model)
    schema = engine.graph.schema
    progress = sys.stderr.isatty()
    with open_store(arguments, read_only=arguments.dry_run) as store:
        try:
            report = write_back(
                engine,
                store,
                index=not arguments.no_index,
                on_missing="skip" if arguments.skip_missing else "error",
                dry_run=arguments.dry_run,
                progress=progress,
            )
        except (DependencyError, UnknownNodeError) as error:
            raise ValueError(_with_options(error)) from error
        print(_with_options(report))
        if arguments.recommend:
            keys = (schema.key.get(schema.user), schema.key.get(schema.item))
            users, items = list(engine.graph.users), None
            if arguments.skip_missing:
                users, items = (
                    _there(store, nodes, key)
                    for nodes, key in zip(
                        (engine.graph.users, engine.graph.items), keys, strict=True
                    )
                )
            lists = engine.recommend(users, arguments.recommend, candidates=items)
            print(
                store.write_recommendations(
                    lists,
                    schema.user,
                    schema.item,
                    keys=keys,
                    dry_run=arguments.dry_run,
                    progress=progress,
                )
            )
    if arguments.uri:
        print(f"items for $user by the vector index:\n{report.cypher}")


def _with_options(told: object) -> str:
    """A message with the options of the command in place of arguments."""
    text = str(told)
    for argument, option in _AS_OPTIONS.items():
        text = text.replace(argument, option)
    return text


def _there(store: CypherStore, nodes: Vocabulary, key: str | None) -> list[Key]:
    """The keys of nodes that the store has."""
    missing = set(store.missing_keys(nodes.node_type, list(nodes), key=key))
    return [one for one in nodes if one not in missing]


def _erase(arguments: argparse.Namespace) -> None:
    from coldstart.erasing import erase
    from encoders.cache import VectorCache

    load = cli_loading.loader(arguments)
    named = arguments.user if arguments.user is not None else arguments.item
    folders = [Path(m) / "graph" for m in arguments.model] + [Path(g) for g in arguments.graph]
    schema, node_type = _schema_in(folders[0]) if folders else None, arguments.type
    if node_type is None:
        if schema is None:
            raise ValueError("give --type NODE_TYPE, or a --model or --graph that tells it")
        node_type = schema.user if arguments.user is not None else schema.item
    with ExitStack() as opened:
        stores = []
        if arguments.store or arguments.uri:
            stores.append(opened.enter_context(open_store(arguments, read_only=False)))
            key = key_as_stored(stores[0], node_type, named)
        elif folders:
            key = _key_as_saved(folders[0], node_type, named)
        else:
            raise ValueError("name a place to erase from: --store, --uri, --model or --graph")
        report = erase(
            node_type,
            key,
            stores=stores,
            models=arguments.model,
            graphs=arguments.graph,
            logs=arguments.log,
            states=_states(arguments),
            cache=VectorCache(arguments.cache),
            load=load,
        )
    print(json.dumps(report.to_dict(), indent=1) if arguments.json else report)


def _states(arguments: argparse.Namespace) -> dict[str | Path, str | Path]:
    """By model, what a server of it keeps."""
    from coldstart.cli_serve import state_of

    if arguments.state is not None:
        if len(arguments.model) != 1:
            raise ValueError("--state: give one --model with it, the one that is served")
        if not Path(arguments.state).is_dir():
            raise ValueError(f"--state: there is no folder {arguments.state}; check the path")
        return {arguments.model[0]: arguments.state}
    beside = {model: state_of(model) for model in arguments.model}
    return {model: state for model, state in beside.items() if Path(state).is_dir()}


def _key_as_saved(folder: Path, node_type: str, text: str) -> Key:
    """A key from the command line in the type that a saved graph has for keys."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    listing = json.loads((folder / "graph.json").read_text(encoding="utf-8"))
    files = {entry["type"]: entry["keys"] for entry in listing["nodes"]}
    if (file := files.get(node_type)) is None:
        return text
    is_int = pa.types.is_integer(pq.read_schema(folder / file).field("key").type)
    return _whole_number(text, node_type, str(folder)) if is_int else text


def _schema_in(folder: Path) -> Schema:
    """The schema of a saved graph, or of the graph in a saved engine.

    Raises:
        ValueError: there is none.
    """
    from kg.schema import Schema

    try:
        return Schema.read(folder / "schema.toml")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(
            f"expected a saved graph in {folder}, found no {folder / 'schema.toml'}; check --model "
            "and --graph (nothing was erased)"
        ) from error


def key_as_stored(store: CypherStore, node_type: str, text: str) -> int | str:
    """A key from the command line in the type that the store has for keys."""
    if store.lookup_kind(node_type) is str:
        return text
    return _whole_number(text, node_type, store.name)


def _whole_number(text: str, node_type: str, place: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(
            f"keys of {node_type} are whole numbers in {place}, got {text!r}"
        ) from None
