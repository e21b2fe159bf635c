"""Files and folders that are either whole or not there, and graphs saved in them."""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from kg.errors import GraphError, SavedFileError
from kg.graph import Edges, KnowledgeGraph, empty_properties
from kg.schema import EdgeType, Schema
from kg.vectors import Vocabulary

MANIFEST = "manifest.json"
GRAPH_KIND, GRAPH_VERSION = "knowledge graph", 1
_TRIES = 100
_Read = TypeVar("_Read")
_STALE_SECONDS = 3600
"""A temporary folder that nobody has touched for so long belongs to a writer that was killed."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to a new file beside ``path``, flush it, and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path, "tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_folder(
    path: str | Path, write_files: Callable[[Path], None], *, kind: str, version: int
) -> None:
    """Write a folder that a reader sees whole, old or new, whenever the writer is killed.

    The files go into a hidden folder beside ``path``, which is flushed to disk and renamed into
    place after the old folder was renamed away. A writer killed between the two renames leaves no
    ``path``; :func:`check_folder` and the next :func:`write_folder` then put the old one back.

    Args:
        path: the folder to write; what is there must be a saved folder of the same kind, or empty.
        write_files: writes everything but the manifest into the folder it is given.
        kind: what the folder holds, checked when it is read.
        version: of the format, at least 1; a reader refuses a newer one than it knows.

    Raises:
        SavedFileError: something else is at ``path``.
    """
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    _recover(path)
    _refuse_foreign(path, kind)
    temporary = _beside(path, "tmp")
    temporary.mkdir()
    try:
        write_files(temporary)
        manifest = _manifest_of(temporary, kind, version)
        write_atomically(temporary / MANIFEST, json.dumps(manifest, indent=1).encode())
        _flush_folders(temporary)
        replaced = _move_into_place(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _flush(path.parent)
    for old in replaced:
        shutil.rmtree(old, ignore_errors=True)
    _remove_stale(path)


def check_folder(path: str | Path, *, kind: str, version: int) -> dict[str, Any]:
    """The manifest of a saved folder, after every file was found whole.

    The checksums are against accidents, not against someone who rewrites the manifest too.

    Args:
        path: a folder that :func:`write_folder` wrote.
        kind: what it must hold.
        version: the newest format that the caller can read.

    Raises:
        SavedFileError: the folder is missing, half-written, changed since, of another kind, or of a
            newer version.
    """
    path = Path(path).absolute()
    _recover(path)
    if not path.is_dir():
        raise SavedFileError(f"no saved {kind} at {path}: there is no such folder; check the path")
    manifest = _read_manifest(path, kind)
    if manifest["kind"] != kind:
        raise SavedFileError(f"{path}: expected a saved {kind}, this is a {manifest['kind']}")
    if manifest["version"] > version:
        raise SavedFileError(
            f"{path}: format version {manifest['version']} is newer than the version {version} "
            "that this program reads; update kg-coldstart"
        )
    found = {p.relative_to(path).as_posix() for p in _files(path)}
    for name, entry in manifest["files"].items():
        if name not in found:
            raise SavedFileError(f"{path}: the file {name} is missing; save or copy it again")
        size = (path / name).stat().st_size
        if size != entry["size"]:
            raise SavedFileError(
                f"{path}: {name} should have {entry['size']} bytes and has {size}; "
                "it was cut off or changed, save or copy it again"
            )
        if _sha256(path / name) != entry["sha256"]:
            raise SavedFileError(
                f"{path}: {name} was changed after it was saved (its checksum differs); save it "
                "again or restore a copy"
            )
    if extra := sorted(found - set(manifest["files"])):
        raise SavedFileError(f"{path}: {extra[0]} does not belong to this {kind}; move it away")
    return manifest


def read_folder(
    path: str | Path, read_files: Callable[[Path], _Read], *, kind: str, version: int
) -> _Read:
    """What ``read_files`` makes of a saved folder, all of it from one version of the folder.

    A writer that replaces the folder meanwhile is noticed and the folder read again, as a reader
    that opens file after file would else take some from the old one and some from the new.

    Args:
        path: a folder that :func:`write_folder` wrote.
        read_files: reads the folder after its files were found whole; may be called again.
        kind: what the folder must hold.
        version: the newest format that the caller can read.

    Raises:
        SavedFileError: as :func:`check_folder`, or another process replaces it again and again.
    """
    path = Path(path).absolute()
    for _ in range(_TRIES):
        before = _identity(path)
        try:
            check_folder(path, kind=kind, version=version)
            found = read_files(path)
        except Exception:
            if before == _identity(path) and not (before is None and leftovers(path, "old")):
                raise
        else:
            if before == _identity(path):
                return found
        time.sleep(0.01)
    raise SavedFileError(
        f"{path}: another process keeps replacing this {kind}; read it when that one is done"
    )


def write_graph(graph: KnowledgeGraph, folder: str | Path) -> None:
    """Save a graph: ``schema.toml``, ``graph.json`` and a Parquet file per node and edge type.

    Types are listed in ``graph.json`` with the name of their file, so any name of a type is safe.
    Edge files hold row numbers of the node files. The folder is written atomically.

    Raises:
        GraphError: a property has a type that Parquet cannot hold.
        SavedFileError: something other than a saved graph is at ``folder``.
    """
    write_folder(
        folder, lambda at: write_graph_files(graph, at), kind=GRAPH_KIND, version=GRAPH_VERSION
    )


def read_graph(folder: str | Path) -> KnowledgeGraph:
    """The graph that :func:`write_graph` saved, equal in every row and type.

    Raises:
        SavedFileError: the folder is missing, incomplete, changed, or of a newer version.
    """
    return read_folder(folder, read_graph_files, kind=GRAPH_KIND, version=GRAPH_VERSION)


def write_graph_files(graph: KnowledgeGraph, folder: Path) -> None:
    """The files of :func:`write_graph` without manifest, for folders that hold more than a graph.

    Raises:
        GraphError: a property has a type that Parquet cannot hold.
    """
    folder.mkdir(parents=True, exist_ok=True)
    graph.schema.write(folder / "schema.toml")
    nodes, edges = [], []
    for number, node_type in enumerate(graph.node_types):
        nodes.append({"type": node_type, "file": f"nodes-{number}.parquet"})
        keys = pa.table({"key": graph.vocabularies[node_type].keys})
        _write_parquet(keys, folder / f"keys-{number}.parquet", node_type)
        nodes[-1]["keys"] = f"keys-{number}.parquet"
        _write_parquet(graph.attributes[node_type], folder / nodes[-1]["file"], node_type)
    for number, (edge_type, one) in enumerate(graph.edges.items()):
        edges.append({"type": list(edge_type), "file": f"edges-{number}.parquet"})
        columns = {"source_row": one.index[0], "target_row": one.index[1]}
        columns |= {} if one.weight is None else {"weight": one.weight}
        columns |= {} if one.time is None else {"time": one.time}
        _write_parquet(pa.table(columns), folder / edges[-1]["file"], str(edge_type))
    skipped = [{"type": list(e), "count": n} for e, n in graph.skipped.items()]
    listed = {"nodes": nodes, "edges": edges, "skipped": skipped}
    write_atomically(folder / "graph.json", json.dumps(listed, indent=1).encode())


def read_graph_files(folder: Path) -> KnowledgeGraph:
    """The graph in files that :func:`write_graph_files` wrote and the caller has checked."""
    listed = json.loads((folder / "graph.json").read_text(encoding="utf-8"))
    vocabularies: dict[str, Vocabulary] = {}
    attributes: dict[str, pa.Table] = {}
    for entry in listed["nodes"]:
        keys = _read_parquet(folder / entry["keys"])["key"]
        vocabularies[entry["type"]] = Vocabulary(entry["type"], keys)
        table = _read_parquet(folder / entry["file"])
        attributes[entry["type"]] = table if table.num_columns else empty_properties(len(keys))
    edges: dict[EdgeType, Edges] = {}
    for entry in listed["edges"]:
        table = _read_parquet(folder / entry["file"])
        source, relation, target = entry["type"]
        edges[source, relation, target] = Edges(
            np.stack([table["source_row"].to_numpy(), table["target_row"].to_numpy()]),
            table["weight"].to_numpy() if "weight" in table.column_names else None,
            table["time"].to_numpy() if "time" in table.column_names else None,
        )
    skipped: dict[EdgeType, int] = {
        (e["type"][0], e["type"][1], e["type"][2]): e["count"] for e in listed["skipped"]
    }
    schema = Schema.read(folder / "schema.toml")
    return KnowledgeGraph(schema, vocabularies, attributes, edges, skipped)


def _write_parquet(table: pa.Table, path: Path, what: str) -> None:
    import pyarrow.parquet as pq

    try:
        pq.write_table(table, path)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise GraphError(
            f"{what}: a property cannot be saved as Parquet ({error}); convert it to text, numbers "
            "or lists of these"
        ) from error


def _read_parquet(path: Path) -> pa.Table:
    import pyarrow.parquet as pq

    return pq.ParquetFile(path).read()


def _manifest_of(folder: Path, kind: str, version: int) -> dict[str, Any]:
    files = {}
    for file in _files(folder):
        _flush(file)
        name = file.relative_to(folder).as_posix()
        files[name] = {"size": file.stat().st_size, "sha256": _sha256(file)}
    manifest = {"kind": kind, "version": version, "files": files}
    return manifest | {"checksum": _own_checksum(manifest)}


def _read_manifest(path: Path, kind: str) -> dict[str, Any]:
    try:
        content = (path / MANIFEST).read_bytes()
    except FileNotFoundError as error:
        raise SavedFileError(
            f"{path} is not a saved {kind}: it has no {MANIFEST}, which is written last, so it is "
            "half-written or something else; check the path or save again"
        ) from error
    try:
        manifest = json.loads(content)
        whole = manifest.pop("checksum") == _own_checksum(manifest)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise SavedFileError(f"{path}: {MANIFEST} is damaged ({error}); save it again") from error
    if not whole or not {"kind", "version", "files"} <= set(manifest):
        raise SavedFileError(f"{path}: {MANIFEST} was changed after it was saved; save it again")
    return manifest


def _identity(path: Path) -> tuple[int, int, bytes] | None:
    """Tells one folder at a path from the next that is put in its place; ``None`` without one."""
    try:
        status = path.stat()
        return status.st_ino, status.st_mtime_ns, (path / MANIFEST).read_bytes()
    except OSError:
        return None


def _own_checksum(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    """All files but the manifest and hidden ones (file managers leave those), in name order."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST and not path.name.startswith("."):
            yield path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_foreign(path: Path, kind: str) -> None:
    """Saving replaces the folder, so it must not be someone's home."""
    try:
        mode = path.lstat().st_mode  # one look: between two the folder may have been renamed
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        raise SavedFileError(f"{path} is no folder; choose another path for the {kind}")
    there = "folder with other files"
    for _ in range(20):  # another writer may be renaming its folder into place just now
        try:
            if not any(path.iterdir()):
                return
            there = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["kind"]
            break
        except FileNotFoundError:
            if not path.exists():
                return
            time.sleep(0.01)
        except (OSError, ValueError, KeyError, TypeError):
            break
    if there != kind:
        raise SavedFileError(
            f"{path} is a {there}, not a saved {kind}, and would be replaced; "
            "choose another path or remove it first"
        )


def _move_into_place(temporary: Path, path: Path) -> list[Path]:
    """Rename ``temporary`` to ``path`` and give back where the folders went that were there.

    It tries again because another writer or a recovering reader may be faster.
    """
    replaced: list[Path] = []
    for _ in range(100):
        try:
            os.rename(temporary, path)
            return replaced
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, old := _beside(path, "old"))
            replaced.append(old)
    raise SavedFileError(f"{path}: another process keeps writing here; choose another path")


def _recover(path: Path) -> None:
    """Put back the old folder of a writer that was killed between its two renames."""
    if path.exists():
        return
    whole = [p for p in leftovers(path, "old") if (p / MANIFEST).exists()]
    if whole:
        with contextlib.suppress(OSError):  # the writer, or another reader, was faster
            os.rename(max(whole, key=_last_touched), path)


def _remove_stale(path: Path) -> None:
    """Remove what killed writers left; a folder touched lately may be another writer's."""
    for folder in (*leftovers(path, "tmp"), *leftovers(path, "old")):
        if time.time() - _last_touched(folder) > _STALE_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def _last_touched(folder: Path) -> float:
    try:
        status = folder.stat()
    except FileNotFoundError:
        return time.time()
    return max(status.st_mtime, status.st_ctime)


def _beside(path: Path, sort: str) -> Path:
    return path.with_name(f".{path.name}.{sort}-{secrets.token_hex(6)}")


def leftovers(path: Path, sort: str) -> list[Path]:
    """Folders beside a saved one that a killed writer left, ``"old"`` or ``"tmp"`` ones."""
    if not path.parent.is_dir():
        return []
    prefix = f".{path.name}.{sort}-"
    return [p for p in path.parent.iterdir() if p.name.startswith(prefix) and p.is_dir()]


def _flush_folders(folder: Path) -> None:
    for path in (*(p for p in folder.rglob("*") if p.is_dir()), folder):
        _flush(path)


def _flush(path: Path) -> None:
    """Make a file or folder survive a power cut, where the system lets us."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return
    with contextlib.suppress(OSError):
        os.fsync(handle)
    os.close(handle)
