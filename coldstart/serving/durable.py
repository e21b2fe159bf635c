"""An engine whose changes are on disk before anyone is told, and that readers see whole.

A change is applied to the engine, which is immutable, so that makes another; then it is appended to
a journal; then the new engine takes the old one's place in one assignment. A reader that took the
old one goes on with it. Changes that come at the same time share one write to the disk. A restart
loads the last snapshot and replays what came after it. The state folder:

    snapshots/<number of the last change in it>/    an engine, and which model it came from
    journal/<number of its first change>.log        all changes, in files that start at snapshots
"""

from __future__ import annotations

import copy
import fcntl
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from coldstart.approximate import ApproximateIndex
from coldstart.engine import ColdStartEngine
from coldstart.index import ExactIndex
from coldstart.journal import Journal, journal_content, read_journal
from coldstart.serving.operations import Operation, applied, redacted
from coldstart.updating import graph_of_rows
from kg.errors import SavedFileError, UnknownNodeError
from kg.files import MANIFEST, check_folder, write_atomically, write_folder
from kg.memory import give_back_memory
from kg.vectors import Key
from kg.wording import counted

log = logging.getLogger(__name__)

KIND, VERSION = "snapshot of a served engine", 1
_KEPT_SNAPSHOTS = 2

MOST_TOLD = 100_000
"""So many of the last changes with a key are remembered."""


class Version(NamedTuple):
    """An engine and the number of the last change in it."""

    engine: ColdStartEngine
    number: int


@dataclass
class _Ticket:
    """A change that waits to be written, and what became of it."""

    operation: Operation
    done: bool = False
    result: Any = None
    error: Exception | None = None


class _Told(NamedTuple):
    """What was answered to a change with a key, and a hash of what was asked, if it is kept."""

    asked: str | None
    result: Any
    number: int


@dataclass
class _State:
    """Where the engine stands.

    Args:
        base: the model that it was loaded from, see :func:`model_id`.
        current: the engine as it is now.
        origin: the engine that it came from by changes alone.
        pending: changes that wait.
        told: changes with a key, by it.
    """

    base: str
    current: Version
    origin: ColdStartEngine
    pending: list[_Ticket] = field(default_factory=list)
    told: dict[str, _Told] = field(default_factory=dict)


class DurableEngine:
    """A saved engine with a journal of changes.

    Args:
        model: folder of a saved engine.
        state: folder of snapshots and journal; made where it is missing.
        snapshot_every: changes after which a snapshot is written in the background.
        load: reads a folder; :meth:`ColdStartEngine.load` by default.

    Raises:
        SavedFileError: the model cannot be read, or a journal is damaged other than at its end.
        RuntimeError: another process serves this state.
    """

    def __init__(
        self,
        model: str | Path,
        state: str | Path,
        *,
        snapshot_every: int = 1000,
        load: Callable[[Path], ColdStartEngine] = ColdStartEngine.load,
    ) -> None:
        self.model, self.folder, self.load = Path(model), Path(state), load
        self.snapshot_every = snapshot_every
        self._writing, self._queueing = threading.Lock(), threading.Lock()
        self._maintaining = threading.RLock()
        (self.folder / "journal").mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self.folder / "lock")
        base = model_id(self.model)
        version = self._last_snapshot(base) or Version(load(self.model), 0)
        self._last, self._scheduled, self._remaking = version.number, False, False
        version = self._replayed(version)
        self._state = _State(base, warmed(version), version.engine)
        self._journal = Journal(self._segment(version.number + 1))
        for record in list(self._records()):
            self._state.told |= _told_by(record)
            if record["op"] == "erase":  # the kill came before it was finished
                self._forget(record["type"], record["key"])

    @property
    def current(self) -> Version:
        """The engine as it is now. It never changes; ask again to see what came since."""
        return self._state.current

    def submit(self, operation: Operation) -> tuple[Any, int]:
        """Apply a change and write it to disk.

        Args:
            operation: the change. With ``once``, a ``key`` and the hash of what was ``asked``, it
                is applied the first time only; a second time is answered like the first, also
                after a restart.

        Returns:
            What there is to say about it, and the number of the version that has it.

        Raises:
            ValueError: it does not fit, or its key came with another change; nothing is changed.
                Also UnknownNodeError, GraphError.
            JournalError: it could not be written; nothing is changed.
        """
        ticket = _Ticket(operation)
        with self._queueing:
            self._state.pending.append(ticket)
        with self._writing:
            if not ticket.done:
                with self._queueing:
                    together, self._state.pending = self._state.pending, []
                self._commit(together)
        if ticket.error is not None:
            raise ticket.error
        return ticket.result

    def snapshot(self, *, anew: bool = False) -> None:
        """Write the current engine to disk, so that a restart has less to replay.

        Args:
            anew: whether to write it though there is a snapshot of the same number.
        """
        with self._maintaining:
            self._scheduled = False
            engine, number = self.current
            path = self.folder / "snapshots" / f"{number:012d}"
            if anew or not path.exists():
                self._write_snapshot(path, engine, number)
            self._last = number
            with self._writing:
                self._journal.close()
                self._journal = Journal(self._segment(self.current.number + 1))
            for old in self._snapshots()[_KEPT_SNAPSHOTS:]:
                shutil.rmtree(old, ignore_errors=True)
        give_back_memory()  # of arrays that grew, and of what was made to be written

    def reload(self) -> Version:
        """Replace the engine by the one now in the model folder, with all changes of the journal.

        Readers go on with the old one until the new one is ready. A change that the new model does
        not take (a node it no longer has) is left out with a line in the log.

        Raises:
            SavedFileError: the model cannot be read; the old engine stays.
        """
        with self._maintaining:
            base = model_id(self.model)
            made = self.load(self.model)
            version = warmed(self._replayed(Version(made, 0), self.current.number))
            with self._writing:
                version = self._replayed(version)
                searching_on(version.engine)
                self._state.base = base
                self._state.current, self._state.origin = version, version.engine
            self.snapshot(anew=True)
            return version

    def replace(self, make: Callable[[ColdStartEngine], ColdStartEngine]) -> Version:
        """Replace the engine by one made from it (a refit, say), with the changes since.

        Args:
            make: takes the current engine and returns another; may take long.
        """
        with self._maintaining:
            old = self.current
            new = make(old.engine)
            if new is old.engine:
                return old
            version = warmed(self._replayed(Version(new, old.number), self.current.number))
            with self._writing:
                version = self._replayed(version)
                searching_on(version.engine)
                self._state.current, self._state.origin = version, version.engine
            self.snapshot(anew=True)
            return version

    def erase(self, node_type: str, key: Key) -> list[str]:
        """Remove a node from the engine, the model folder, snapshots, journal and text cache.

        Returns:
            What was done, in sentences.

        Raises:
            UnknownNodeError: there is no such node.
            ValueError: it is neither a user nor an item.
        """
        schema = self.current.engine.graph.schema
        if node_type not in (schema.user, schema.item):
            raise ValueError(
                f"only {schema.user!r} and {schema.item!r} can be erased, got {node_type!r}"
            )
        from encoders.texts import node_texts

        graph = self.current.engine.graph
        if key not in graph.vocabularies[node_type] and self._is_told_of(node_type, key):
            return self._forget(node_type, key)  # someone took it out of the model alone
        row = graph.vocabularies[node_type].rows([key])
        texts = list(node_texts(graph_of_rows(graph, node_type, row), node_type))
        self.submit({"op": "erase", "type": node_type, "key": key})
        done = self._forget(node_type, key, texts)
        if node_type == schema.item and "_item_search" in self.current.engine.__dict__:
            search = self.current.engine.__dict__["_item_search"]
            if not isinstance(search, ExactIndex):
                done.append(
                    "remains: its vector in the memory of this process, in the clusters of faiss, "
                    "where no search finds it; until they are made anew, at the latest by a restart"
                )
        return done

    def close(self) -> None:
        """Write a snapshot if there were changes, and close the journal."""
        with self._maintaining:
            if self.current.number > self._last:
                self.snapshot()
            self._journal.close()
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1

    # --- inside ---------------------------------------------------------------------------------

    def _is_told_of(self, node_type: str, key: Key) -> bool:
        """Whether journal or snapshots hold a node, though the engine does not have it."""
        from coldstart.erasing import Person, traces_in_state

        schema = self.current.engine.graph.schema
        return bool(traces_in_state(self.folder, Person(node_type, key), schema))

    def _commit(self, tickets: list[_Ticket]) -> None:
        engine, number = self._state.current
        records, fine = [], []
        told: dict[str, _Told] = {}
        for ticket in tickets:
            try:
                if (before := _told_before(ticket.operation, told, self._state.told)) is not None:
                    ticket.result = before.result, before.number
                    fine.append(ticket)
                    continue
                record = {"seq": number + 1, **ticket.operation}
                journal_content([record])  # what cannot be written is this one's own error
                engine, said = applied(engine, ticket.operation)
                if "once" in record:
                    record["said"] = said
                    told |= _told_by(record)
                number += 1
                ticket.result = said, number
                records.append(record)
                fine.append(ticket)
            except Exception as error:
                ticket.error = error
        try:
            if records:
                stale = searching_on(engine)  # what may fail comes before the write
                self._journal.append(records)
                self._state.current = Version(engine, number)
                self._state.told |= told
                if stale and not self._remaking:
                    self._remaking = True
                    threading.Thread(target=self._remake_search, name="search").start()
                while len(self._state.told) > MOST_TOLD:
                    del self._state.told[next(iter(self._state.told))]
        except Exception as error:
            for ticket in fine:
                ticket.error = error
        for ticket in tickets:
            ticket.done = True
        if number - self._last >= self.snapshot_every and not self._scheduled:
            self._scheduled = True
            threading.Thread(target=self._snapshot_aside, name="snapshot").start()

    def _snapshot_aside(self) -> None:
        try:
            self.snapshot()
        except OSError as error:
            log.error("no snapshot was written, the journal goes on: %s", error)

    def _remake_search(self) -> None:
        """Make the search for items anew, while all else goes on, and put it in its place."""
        try:
            after = None
            while after is None and self._lock >= 0:
                with self._writing:
                    engine, origin = self.current.engine, self._state.origin
                search = engine.search_made_anew()
                with self._writing:
                    if self._state.origin is not origin:  # another model, with a search of its own
                        break
                    current, number = self.current
                    if (after := with_search(current, search, engine)) is not None:
                        self._state.current = Version(after, number)
        except Exception:
            log.exception("the search for items was not made anew, the old one goes on")
        finally:
            self._remaking = False

    def _forget(self, node_type: str, key: Key, texts: Sequence[str] = ()) -> list[str]:
        """Everything an erasure does after the engine no longer has the node."""
        from coldstart.erasing import erase
        from encoders.cache import VectorCache

        with self._maintaining:
            engine = self.current.engine
            cache = VectorCache() if engine.cache == "default" else engine.cache
            gone = cache.erase(texts) if isinstance(cache, VectorCache) else 0
            done = [f"{counted(gone, 'text vector')} removed from the cache"] if gone else []
            try:
                found = erase(
                    node_type, key, models=[self.model], cache=cache or None, load=self.load
                )
                done += [*found.done, *(f"remains: {r}" for r in found.remains)]
            except UnknownNodeError:
                done.append(f"{self.model}: not in what was saved there")
            self._state.base = model_id(self.model)
            self.snapshot(anew=True)
            keep = self.folder / "snapshots" / f"{self._last:012d}"
            for old in self._snapshots():
                if old != keep:
                    shutil.rmtree(old)
            schema = engine.graph.schema
            for segment in self._segments():
                if segment != self._journal.path:
                    records = [redacted(r, node_type, key, schema) for r in read_journal(segment)]
                    write_atomically(segment, journal_content(records))
            return [*done, f"{self.folder}: removed from snapshots and journal"]

    def _write_snapshot(self, path: Path, engine: ColdStartEngine, number: int) -> None:
        told = {"number": number, "base": self._state.base}

        def write(at: Path) -> None:
            engine.save(at / "engine")
            (at / "served.json").write_text(json.dumps(told))

        write_folder(path, write, kind=KIND, version=VERSION)

    def _last_snapshot(self, base: str) -> Version | None:
        """The last whole snapshot that came from the model as it is."""
        for path in self._snapshots():
            try:
                check_folder(path, kind=KIND, version=VERSION)
                told = json.loads((path / "served.json").read_text())
                if told["base"] != base:
                    log.warning("%s came from another model; replaying the journal instead", path)
                    return None
                return Version(self.load(path / "engine"), told["number"])
            except SavedFileError as error:
                log.warning("snapshot left out: %s", error)
        return None

    def _replayed(self, version: Version, last: int | None = None) -> Version:
        """A version with the changes that the journal has after it.

        Args:
            version: from which to go on.
            last: number of the change to stop at. While others may write, it must be one that is
                committed: what follows may be half written, or taken back as the disk is full.
        """
        engine, number = version
        if number == last:
            return version
        for record in self._records():
            if record["seq"] <= number:
                continue
            if record["seq"] != number + 1:
                raise SavedFileError(
                    f"{self.folder}: the journal goes from change {number} to {record['seq']}; a "
                    "file of it is missing, restore it"
                )
            try:
                engine, _ = applied(engine, record)
            except (ValueError, LookupError, TypeError) as error:
                log.warning("change %d left out: %s", record["seq"], error)
            number = record["seq"]
            if number == last:
                break
        return Version(engine, number)

    def _records(self) -> Iterator[Operation]:
        for segment in self._segments():
            yield from read_journal(segment)

    def _segments(self) -> list[Path]:
        return sorted((self.folder / "journal").glob("*.log"))

    def _segment(self, number: int) -> Path:
        return self.folder / "journal" / f"{number:012d}.log"

    def _snapshots(self) -> list[Path]:
        """Newest first."""
        return sorted((self.folder / "snapshots").glob("[0-9]*"), reverse=True)


def _told_by(record: Operation) -> dict[str, _Told]:
    """By key, what was answered to a change in the journal; empty for one without a key."""
    if "once" not in record:
        return {}
    once = record["once"]
    return {once["key"]: _Told(once.get("asked"), record["said"], record["seq"])}


def _told_before(operation: Operation, *told: Mapping[str, _Told]) -> _Told | None:
    """What was answered to a change when it came first.

    Raises:
        ValueError: its key came with another change.
    """
    if (once := operation.get("once")) is None:
        return None
    before = next((known[once["key"]] for known in told if once["key"] in known), None)
    if before is not None and before.asked not in (None, once["asked"]):
        raise ValueError(
            f"the key {once['key']!r} came before, as change {before.number}, with other content; "
            "give each request a new key, and the same one only when it is sent again"
        )
    return before


def warmed(version: Version) -> Version:
    """A version whose indexes are made, so that no reader waits for them."""
    engine = version.engine
    _ = engine._item_index.longest, engine._user_index.longest, engine._item_search
    return version


def searching_on(engine: ColdStartEngine) -> bool:
    """Make an engine's indexes, apart from clusters that take long; whether these are to be made.

    Until they are, it goes on with the clusters there are, or with exact search.
    """
    _ = engine._item_index.longest, engine._user_index.longest
    known = engine.__dict__
    if "_item_search" not in known and engine.may_approximate:
        known["_item_search"] = known.pop("_stale_search", engine._item_index)
        return True
    _ = engine._item_search
    return False


def with_search(
    engine: ColdStartEngine, search: ExactIndex | ApproximateIndex, made_of: ColdStartEngine
) -> ColdStartEngine | None:
    """The same engine with a search for items that was made of an earlier one.

    Args:
        engine: as it is now.
        search: for the items of the other engine.
        made_of: the other engine.

    Returns:
        ``None`` where the items that both have do not stand in the same order.
    """
    exact, before, kept = engine._item_index, made_of._item_index.rows, None
    keys = made_of.graph.items.keys
    if not engine.graph.items.keys.slice(0, len(keys)).equals(keys):  # some have gone
        rows = engine.graph.items.rows(keys, missing="mark")
        kept = np.flatnonzero(rows >= 0)
        if (rows[kept] != np.arange(len(kept))).any():
            return None
        before = before[torch.from_numpy(kept)]
    if isinstance(search, ExactIndex):
        search = exact
    else:
        changed = (exact.rows[: len(before)] != before).any(dim=1).numpy()
        late = np.append(np.flatnonzero(changed), np.arange(len(before), len(exact.rows)))
        search = search.followed(exact, late, kept)
    out = copy.copy(engine)  # with the indexes that it has
    out.__dict__["_item_search"] = search
    return out


def model_id(folder: Path) -> str:
    """What tells a saved model from any other: the checksum in its manifest.

    Raises:
        SavedFileError: there is no saved engine.
    """
    check = folder / MANIFEST
    if not check.is_file():
        raise SavedFileError(f"no saved engine at {folder}; check the path, or fit one first")
    return str(json.loads(check.read_text(encoding="utf-8")).get("checksum"))


def _locked(path: Path) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise RuntimeError(
            f"{path.parent}: another process serves this state; stop it or name another folder"
        ) from error
    return handle
