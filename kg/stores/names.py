"""Names in Cypher."""

from __future__ import annotations

from kg.errors import SchemaError


def quoted(name: str) -> str:
    """A label, relation or property name as Cypher takes it, whatever is in it.

    Raises:
        SchemaError: the name is empty, no string, or holds a null character.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise SchemaError(f"{name!r} cannot be a label, relation or property in Cypher; rename it")
    return "`" + name.replace("`", "``") + "`"
