"""Commands about texts and what encodes them: ``texts``, ``cache`` and ``adapt``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coldstart.cli_graph import add_source, graph_from

if TYPE_CHECKING:
    from encoders.base import NodeTexts
    from kg.graph import KnowledgeGraph

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def add_commands(commands: Any) -> None:
    """Add the commands of this module to those of ``coldstart``."""
    texts = commands.add_parser("texts", help="what the text of a node will be, and what is cut")
    add_source(texts, graph=True, first=True)
    texts.add_argument("--type", action="append", help="node type (default: those with texts)")
    texts.add_argument("--sample", type=int, default=3, help="texts shown per type (default: 3)")
    texts.add_argument("--template", help="'{title} ({year}). {plot}', for a single --type")
    texts.add_argument(
        "--neighbours", help="relations by comma whose neighbours are named, or: all"
    )
    texts.add_argument("--max-chars", type=int, default=20_000, help="longer ones are cut there")
    texts.add_argument("--model", help="also count tokens and what this model cuts off")
    texts.add_argument("--seed", type=int, default=0, help="of the sample")
    texts.add_argument("--json", action="store_true", help="print JSON instead")
    texts.set_defaults(run=_texts)

    cache = commands.add_parser("cache", help="text vectors on disk: what is there, prune, clear")
    cache.add_argument("--folder", help="if not the usual one")
    action = cache.add_mutually_exclusive_group()
    action.add_argument(
        "--prune", metavar="SIZE", help="drop the longest unused until it has this size: 500MB, 2GB"
    )
    action.add_argument("--clear", action="store_true", help="drop everything")
    cache.add_argument("--json", action="store_true", help="print JSON instead")
    cache.set_defaults(run=_cache)

    adapt = commands.add_parser(
        "adapt",
        help="teach a text encoder the facts and tastes of a graph (needs peft)",
        description="Teach a text encoder the facts of a graph, then the tastes of its users. Pass "
        "the graph of training: interactions that are held out to judge by must not be in it, or "
        "the encoder learns them and every figure on them is too good.",
    )
    adapt.add_argument("folder", help="where the adapter goes; run again, a stopped run goes on")
    add_source(adapt, graph=True)
    adapt.add_argument("--config", metavar="FILE", help="settings, as TOML")
    adapt.add_argument("--model", help="instead of the model in the settings")
    adapt.add_argument(
        "--write-config", metavar="FILE", help="train nothing: write the settings to edit"
    )
    adapt.add_argument("--quiet", action="store_true", help="show no bar")
    adapt.add_argument("--json", action="store_true", help="print the whole card as JSON instead")
    adapt.set_defaults(run=_adapt)


def _texts(arguments: argparse.Namespace) -> None:
    from encoders.texts import node_texts

    graph = graph_from(arguments)
    types = arguments.type or [t for t in graph.node_types if graph.schema.text.get(t)]
    if not types:
        raise ValueError("the schema names no text properties; give --type, or edit the schema")
    if arguments.template and len(types) != 1:
        raise ValueError(f"--template is for one node type, got {types}; give one --type")
    named = _neighbours(graph, types, arguments.neighbours)
    report = {}
    for node_type in types:
        found = node_texts(
            graph,
            node_type,
            template=arguments.template,
            neighbours=named[node_type],
            max_chars=arguments.max_chars,
        )
        report[node_type] = _summary(graph, found, arguments)
    if arguments.json:
        print(json.dumps(report, indent=1, ensure_ascii=False, default=str))
        return
    for node_type, one in report.items():
        print(_told(node_type, one))


def _neighbours(
    graph: KnowledgeGraph, types: list[str], asked: str | None
) -> dict[str, bool | list[str]]:
    """The relations to name for each type: those of the ones asked for that it has.

    Raises:
        ValueError: none of the types has one of them.
    """
    if not asked or asked == "all":
        return dict.fromkeys(types, asked == "all")
    wanted = [name.strip() for name in asked.split(",")]
    has = {t: {e[1] for e in graph.edge_types if t in (e[0], e[2])} for t in types}
    there = set().union(*has.values())
    if unknown := [name for name in wanted if name not in there]:
        raise ValueError(
            f"--neighbours: no relation {unknown[0]!r} at {' or '.join(types)}, only "
            f"{sorted(there)}; name one of these, or: all"
        )
    return {t: [name for name in wanted if name in has[t]] for t in types}


def _summary(graph: KnowledgeGraph, found: NodeTexts, arguments: argparse.Namespace) -> dict:
    import numpy as np

    lengths = np.array([len(text) for text in found], np.int64)
    out: dict[str, Any] = {
        "nodes": len(found),
        "distinct": len(set(found)),
        "empty": int((lengths == 0).sum()),
        "cut": found.num_cut,
        "characters": {"median": int(np.median(lengths)), "most": int(lengths.max())}
        if len(found)
        else {},
    }
    if arguments.model and len(found):
        from encoders.transformer import TransformerEncoder

        encoder = TransformerEncoder(arguments.model)
        tokens, most = encoder.count_tokens(list(found)), encoder.settings.max_tokens
        out["tokens"] = {
            "median": int(np.median(tokens)),
            "most": int(tokens.max()),
            "model takes": most,
            "texts cut": int((tokens > most).sum()),
        }
    rows = np.random.default_rng(arguments.seed).permutation(len(found))[: arguments.sample]
    keys = graph.vocabularies[found.node_type].keys.take(np.sort(rows)).to_pylist()
    out["sample"] = {str(key): text for key, text in zip(keys, found.of(keys), strict=True)}
    return out


def _told(node_type: str, one: dict[str, Any]) -> str:
    lines = [
        f"{node_type}: {one['nodes']} nodes, {one['distinct']} distinct texts, "
        f"{one['empty']} empty, {one['cut']} cut; characters: "
        + ", ".join(f"{name} {n}" for name, n in one["characters"].items())
    ]
    if "tokens" in one:
        lines.append("  tokens: " + ", ".join(f"{name} {n}" for name, n in one["tokens"].items()))
    lines += [f"  {key}: {text}" for key, text in one["sample"].items()]
    return "\n".join(lines)


def _cache(arguments: argparse.Namespace) -> None:
    from dataclasses import asdict

    from encoders.cache import VectorCache

    cache = VectorCache(arguments.folder)
    if arguments.clear:
        before = cache.stats().num_vectors
        cache.clear()
        print(f"{before} vectors dropped", file=sys.stderr)
    elif arguments.prune:
        print(f"{cache.prune(_bytes(arguments.prune))} vectors dropped", file=sys.stderr)
    stats = cache.stats()
    print(json.dumps(asdict(stats), indent=1, default=str) if arguments.json else stats.to_text())


def _adapt(arguments: argparse.Namespace) -> None:
    from dataclasses import replace

    from encoders.adaptation import AdaptationConfig, adapt

    if arguments.config and not Path(arguments.config).is_file():
        raise ValueError(
            f"there is no settings file at {arguments.config}; check the path, or have one written "
            f"by --write-config {arguments.config}"
        )
    config = AdaptationConfig.read(arguments.config) if arguments.config else AdaptationConfig()
    if arguments.model:
        config = replace(config, model=arguments.model)
    if arguments.write_config:
        config.write(arguments.write_config)
        print(f"settings written to {arguments.write_config}; edit them, then give --config")
        return
    graph = graph_from(arguments)
    card = adapt(graph, arguments.folder, config, progress=not arguments.quiet)
    if arguments.json:
        print(json.dumps(card, indent=1))
        return
    for name, stage in card["stages"].items():
        kept = f"the state of step {stage['best_step']} is kept"
        if not stage["best_step"]:
            kept = "no better than before, so nothing of it is kept"
        print(
            f"{name}: {stage['steps']} steps on {stage['examples']} examples, held-out items "
            f"{stage['mark_before']:.4f} before, {stage['best_mark']:.4f} at best: {kept}"
        )
    print(f"adapter written to {arguments.folder}; use TransformerEncoder(adapter=...)")


def _bytes(text: str) -> int:
    number = text.strip().upper().rstrip("KMGTB")
    unit = text.strip().upper()[len(number) :]
    try:
        return int(float(number) * _UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        raise ValueError(f"--prune {text!r}: expected a size like 500MB or 2GB") from None
