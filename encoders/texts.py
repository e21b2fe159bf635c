"""A node in words: its properties, by a template if wanted, and the names of its neighbours."""

from __future__ import annotations

import html
import logging
import re
import string
import unicodedata
from collections.abc import Iterable, Mapping

import numpy as np

from encoders.base import NodeTexts
from kg.errors import MissingColumnError, SchemaError
from kg.graph import KnowledgeGraph
from kg.schema import EdgeType
from kg.tables import text_column

logger = logging.getLogger(__name__)

_INLINE = "a abbr b bdi bdo big cite code em font i mark q s small span strike strong sub sup tt u"
_BLOCK = (
    "address article aside blockquote body br caption center dd div dl dt fieldset figure footer "
    "form h1 h2 h3 h4 h5 h6 head header hr html img input label li link main meta nav ol option "
    "p pre section select table tbody td tfoot th thead title tr ul video audio iframe button"
)
# Every pattern stops at the next bracket, so that no text, however odd, takes long.
_INSIDE = r"(?:\s[^<>]{0,4000})?/?"
_HIDDEN = re.compile(rf"<(script|style){_INSIDE}>|<!--", re.I)
_HIDDEN_END = {
    name: re.compile(rf"</{name}\s*>" if name else "-->", re.I) for name in ("script", "style", "")
}
_INLINE_TAG = re.compile(rf"</?(?:{'|'.join(_INLINE.split())}){_INSIDE}>", re.I)
_BLOCK_TAG = re.compile(rf"</?(?:{'|'.join(_BLOCK.split())}){_INSIDE}>", re.I)
# Joiners (U+200C, U+200D) stay: Persian, Indic scripts and emoji need them.
_INVISIBLE = re.compile(
    "[\u00ad\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]"
)
_UNENCODABLE = re.compile("[\ud800-\udfff\ufffe\uffff]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_MISSING = "\x00"  # stands for a missing value in a template; no cleaned value holds it
_OPEN, _CLOSE = r"(\[\"（《「『【", r")\]\"）》」』】"  # noqa: RUF001 - Chinese brackets
_PAUSES, _STOPS = ",;:，；：、", ".!?。！？"  # noqa: RUF001
_SIGNS = _PAUSES + _STOPS
_ENDS = (".", "!", "?", "…", ":", ";", "。", "！", "？", "：", "；")  # noqa: RUF001 - Chinese signs


def node_texts(
    graph: KnowledgeGraph,
    node_type: str,
    *,
    template: str | None = None,
    neighbours: bool | Iterable[str | EdgeType] = False,
    max_neighbours: int = 20,
    max_chars: int = 20_000,
) -> NodeTexts:
    """One text per node, in row order.

    A node's text depends on the node and its neighbours alone, not on where its rows are, so one
    that arrives later reads as if it had always been there. Missing values are left out. HTML tags
    and control characters are removed.

    Args:
        graph: where the nodes are.
        node_type: which nodes.
        template: a sentence with property names in braces, ``"{title} ({year}). {plot}"``; by
            default the schema's text properties in their order. A type without any has empty texts.
        neighbours: relations (or edge types) whose neighbours are named after the rest, as in
            ``genre: Comedy, Drama``; ``True`` for all. A neighbour's name is its first text
            property, else its key; names are sorted. Relations between users and items are never
            used: what is to be predicted must not be in the text.
        max_neighbours: names per relation, the first of them.
        max_chars: a longer text is cut there, at a space if one is near; cuts are counted.

    Raises:
        SchemaError: a node type or relation is not in the graph, or is one between users and items.
        MissingColumnError: a text property is not among the node's properties.
        ValueError: the template is not valid.
    """
    if node_type not in graph.vocabularies:
        raise SchemaError(f"no nodes of type {node_type!r}, only {sorted(graph.vocabularies)}")
    for name, value in (("max_neighbours", max_neighbours), ("max_chars", max_chars)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if template is None:
        texts = _joined_properties(graph, node_type)
    else:
        texts = _filled(graph, node_type, template)
    for edge_type, label, outgoing in _relations(graph, node_type, neighbours):
        named = _neighbour_names(graph, edge_type, outgoing, max_neighbours)
        for row, names in named.items():
            texts[row] = _join([texts[row], f"{label}: {', '.join(names)}"])
    cut = [shorten(text, max_chars) for text in texts]
    num_cut = sum(len(a) < len(b) for a, b in zip(cut, texts, strict=True))
    if num_cut:
        logger.info(
            "%s: %d of %d texts are longer than %d characters and lost their end",
            node_type,
            num_cut,
            len(texts),
            max_chars,
        )
    return NodeTexts(graph.vocabularies[node_type], cut, num_cut)


def clean(text: str) -> str:
    """A text on one line, without HTML, control characters and invisible marks."""
    if "<" in text or "&" in text:
        text = _without_tags(html.unescape(_without_tags(text)))
    text = _UNENCODABLE.sub("\N{REPLACEMENT CHARACTER}", _INVISIBLE.sub("", text))
    return " ".join(unicodedata.normalize("NFC", _CONTROL.sub(" ", text)).split())


def shorten(text: str, max_chars: int) -> str:
    """The first ``max_chars`` characters at most, ended at a space if one is in the last tenth."""
    if len(text) <= max_chars:
        return text
    head = text[: max_chars + 1]
    space = head.rfind(" ")
    return head[: space if space >= 0.9 * max_chars else max_chars].rstrip()


def template_fields(template: str) -> list[str]:
    """The property names in a template.

    Raises:
        ValueError: a brace is not closed, or something else than a plain name stands in braces.
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"template {template!r}: {error}; write {{{{ for a brace") from error
    fields = []
    for _, name, spec, conversion in parts:
        if name is None:
            continue
        if not name or spec or conversion or re.search(r"[\[\].!:{}]", name):
            raise ValueError(
                f"template {template!r}: expected a property name alone in braces, got "
                f"{{{name}{'!' + conversion if conversion else ''}{':' + spec if spec else ''}}}"
            )
        fields.append(name)
    return fields


def _without_tags(text: str) -> str:
    return _INLINE_TAG.sub("", _BLOCK_TAG.sub(" ", _without_hidden(text)))


def _without_hidden(text: str) -> str:
    """A text without comments, scripts and styles; like in a browser, one left open has no end."""
    shown, at = [], 0
    while begin := _HIDDEN.search(text, at):
        shown.append(text[at : begin.start()])
        end = _HIDDEN_END[(begin[1] or "").lower()].search(text, begin.end())
        at = end.end() if end else len(text)
    return " ".join([*shown, text[at:]])


def _join(parts: Iterable[str]) -> str:
    """Parts as sentences: a full stop between them unless the part ends in a sign of its own."""
    out = ""
    for part in filter(None, parts):
        out += f"{'' if not out else ' ' if out.endswith(_ENDS) else '. '}{part}"
    return out


def properties(graph: KnowledgeGraph, node_type: str, names: Iterable[str]) -> list[list[str]]:
    """The cleaned values of each property, empty where missing.

    Raises:
        MissingColumnError: the nodes have no such property.
    """
    table = graph.node_table(node_type)
    columns = []
    for name in names:
        if name not in table.column_names:
            raise MissingColumnError(
                f"{node_type} has no property {name!r} to make a text of, only "
                f"{table.column_names}; correct the schema's text or the template"
            )
        columns.append([clean(value) if value else "" for value in text_column(table[name])])
    return columns


def _joined_properties(graph: KnowledgeGraph, node_type: str) -> list[str]:
    names = graph.schema.text.get(node_type, ())
    columns = properties(graph, node_type, names)
    if not columns:
        return [""] * graph.num_nodes(node_type)
    return [_join(parts) for parts in zip(*columns, strict=True)]


def _filled(graph: KnowledgeGraph, node_type: str, template: str) -> list[str]:
    fields = template_fields(template)
    parts = [(literal, name) for literal, name, *_ in string.Formatter().parse(template)]
    columns = dict(zip(fields, properties(graph, node_type, fields), strict=True))
    texts = []
    for row in range(graph.num_nodes(node_type)):
        text = ""
        for literal, name in parts:
            ended = literal.startswith(".") and text.endswith(_ENDS)
            text += literal[1:] if ended else literal
            if name is not None:
                text += columns[name][row] or _MISSING
        missing = all(not column[row] for column in columns.values())
        texts.append("" if fields and missing else clean(_closed_up(text)))
    return texts


def _closed_up(text: str) -> str:
    """A filled template without the brackets, spaces and signs that go with a missing value."""
    if _MISSING not in text:
        return text
    text = re.sub(rf"[{_OPEN}]\s*{_MISSING}\s*[{_CLOSE}]", _MISSING, text)
    gap = rf"\s*{_MISSING}(?:[\s{_SIGNS}]*{_MISSING})*"
    text = re.sub(rf"^{gap}[\s{_SIGNS}]*", "", text)
    text = re.sub(rf"[\s{_PAUSES}]*{gap}([{_STOPS}]?)[\s{_SIGNS}]*$", r"\1", text)
    text = re.sub(rf"(?<=[{_SIGNS}…]){gap}[\s{_SIGNS}]*", " ", text)  # a sign is there already
    return re.sub(rf"{gap}(\s*)", r"\1", text)


def _relations(
    graph: KnowledgeGraph, node_type: str, wanted: bool | Iterable[str | EdgeType]
) -> list[tuple[EdgeType, str, bool]]:
    """Edge type, label and whether the node is its source, for the relations wanted."""
    if wanted is False:
        return []
    if isinstance(wanted, str):
        raise TypeError(f"neighbours must be a list of relations or a bool, got {wanted!r}")
    touching = [e for e in graph.edge_types if node_type in (e[0], e[2])]
    free = [e for e in touching if {e[0], e[2]} != {graph.schema.user, graph.schema.item}]
    if wanted is True:
        chosen = free
    else:
        chosen = []
        for one in wanted:
            match = [e for e in touching if one == e or one == e[1]]
            if not match:
                have = sorted({e[1] for e in free})
                raise SchemaError(f"{node_type} has no relation {one!r}, only {have}")
            if not_free := [e for e in match if e not in free]:
                raise SchemaError(
                    f"{not_free[0]} leads between users and items: a text made from it would tell "
                    "what is to be predicted; leave it out"
                )
            chosen += [e for e in match if e not in chosen]
    out = []
    for edge_type in chosen:
        source, relation, target = edge_type
        label = relation.replace("_", " ").strip().lower().removeprefix("has ")
        if source == node_type:
            out.append((edge_type, label, True))
        if target == node_type:
            out.append((edge_type, f"reverse {label}" if source == target else label, False))
    return out


def _neighbour_names(
    graph: KnowledgeGraph, edge_type: EdgeType, outgoing: bool, most: int
) -> Mapping[int, list[str]]:
    """Sorted distinct names of the neighbours, by the row of the node that has any."""
    index = graph.edges[edge_type].index
    here, there = (index[0], index[1]) if outgoing else (index[1], index[0])
    other = edge_type[2] if outgoing else edge_type[0]
    keys = graph.vocabularies[other].keys.to_pylist()
    first = graph.schema.text.get(other, ())[:1]
    titles = properties(graph, other, first)[0] if first else [""] * len(keys)
    names: dict[int, set[str]] = {}
    pairs = np.unique(np.stack([here, there]), axis=1)
    for row, neighbour in pairs.T.tolist():
        name = titles[neighbour] or clean(str(keys[neighbour]))
        names.setdefault(row, set()).add(name)
    return {
        row: sorted(found, key=lambda n: (n.casefold(), n))[:most] for row, found in names.items()
    }
