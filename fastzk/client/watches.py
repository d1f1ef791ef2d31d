"""Who is told of which changes: the watches of a client, by path.

A *watcher* is a function and hears of one event. A *stream* stays until it is closed. Paths are those the program
uses, below the chroot. The server forgets its watches when a connection ends; from what is here they are set again.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from fastzk import protocol
from fastzk._codec import encode, encode_frame
from fastzk.client.results import WatchedEvent
from fastzk.client.states import EVENTS, EventType, KeeperState
from fastzk.protocol import OpCode, Xid
from fastzk.records import RequestHeader, SetWatches, SetWatches2

Watcher = Callable[[WatchedEvent], object]
#: How a client has a watcher called.
Notify = Callable[[Watcher, WatchedEvent], object]

#: No frame of watches to set again is much larger than this, in bytes.
CHUNK_BYTES: Final = 128 << 10

_CREATED = int(protocol.EventType.CREATED)
_DELETED = int(protocol.EventType.DELETED)
_CHANGED = int(protocol.EventType.DATA_CHANGED)
_CHILD = int(protocol.EventType.CHILDREN_CHANGED)
_REMOVED = {
    int(protocol.EventType.DATA_WATCH_REMOVED): ("data", "exist"),
    int(protocol.EventType.CHILD_WATCH_REMOVED): ("child",),
}
_GETS_CHILDREN = (OpCode.GET_CHILDREN, OpCode.GET_CHILDREN2)


class Stream(Protocol):
    """What hears of every event below a path; called while replies are read, so it only takes note."""

    recursive: bool

    def put(self, event: WatchedEvent) -> None: ...
    def end(self, event: WatchedEvent) -> None: ...


class Watches:
    """All watches of a client.

    Watches are added by the thread that reads, and let go of by any other.
    """

    def __init__(self, notify: Notify) -> None:
        self._notify = notify
        # Without it a watch that is being added may go with the last other one of its path, and nobody is ever told.
        # A finalizer may come in between, so the same thread may take it twice.
        self._mutex = threading.RLock()
        # Sets that keep their order: who came first is told first.
        self._once: dict[str, dict[str, dict[Watcher, None]]] = {"data": {}, "exist": {}, "child": {}}
        self._streams: dict[str, list[weakref.ref[Stream]]] = {}
        self._recursive = 0

    def __len__(self) -> int:
        return sum(len(paths) for paths in self._once.values()) + len(self._streams)

    # ---- what is watched

    def add(self, op: int, missing: bool, path: str, watcher: Watcher) -> None:
        """The server watches ``path`` since the request ``op``; ``missing``: there is no such znode."""
        kind = "child" if op in _GETS_CHILDREN else "exist" if missing else "data"
        with self._mutex:
            self._once[kind].setdefault(path, {})[watcher] = None

    def forget(self, path: str, watcher: Watcher) -> None:
        """Do not tell this watcher any more; the server may still watch."""
        with self._mutex:
            for paths in self._once.values():
                watchers = paths.get(path)
                if watchers is not None and watchers.pop(watcher, 0) is None and not watchers:
                    del paths[path]

    def has_once(self, path: str) -> bool:
        """Whether a watcher waits for something at ``path``."""
        return any(path in paths for paths in self._once.values())

    def clear(self, path: str, kinds: tuple[str, ...]) -> None:
        """Drop the watchers of a path: ``data``, ``exist`` and ``child`` as wanted."""
        with self._mutex:
            for kind in kinds:
                self._once[kind].pop(path, None)

    def streams(self, path: str) -> list[Stream]:
        """The streams that begin at ``path``."""
        return [stream for ref in self._streams.get(path, ()) if (stream := ref()) is not None]

    def add_stream(self, path: str, stream: Stream) -> None:
        """From now on events at ``path`` go to ``stream`` too. The registry does not keep it alive."""
        with self._mutex:
            self._streams.setdefault(path, []).append(weakref.ref(stream))
            self._recursive += stream.recursive

    def remove_stream(self, path: str, stream: Stream | None, recursive: bool) -> bool:
        """Drop a stream, or (None) those that nobody holds any more; whether none is left at ``path``."""
        with self._mutex:
            refs = self._streams.get(path)
            if refs is None:
                return False
            kept = [ref for ref in refs if (other := ref()) is not None and other is not stream]
            self._recursive -= (len(refs) - len(kept)) * recursive
            if kept:
                self._streams[path] = kept
            else:
                del self._streams[path]
            return not kept

    # ---- what happens

    def event(self, kind: int, path: str) -> None:
        """The server sent an event."""
        event = WatchedEvent(EVENTS.get(kind, EventType.NONE), KeeperState.CONNECTED, path)
        if kind in (_CREATED, _CHANGED):
            self._fire(("data", "exist"), path, event)
        elif kind == _DELETED:
            self._fire(("data", "exist", "child"), path, event)
        elif kind == _CHILD:
            self._fire(("child",), path, event)
        elif kind in _REMOVED:
            self.clear(path, _REMOVED[kind])
            return
        else:
            return
        if self._streams:
            for stream in self._listening(path, kind):
                stream.put(event)

    def _fire(self, kinds: tuple[str, ...], path: str, event: WatchedEvent) -> None:
        told: dict[Watcher, None] = {}
        with self._mutex:
            for kind in kinds:
                told.update(self._once[kind].pop(path, {}))
        for watcher in told:
            self._notify(watcher, event)

    def _listening(self, path: str, kind: int) -> Iterator[Stream]:
        for stream in self.streams(path):
            if not (stream.recursive and kind == _CHILD):
                yield stream
        if not self._recursive or kind == _CHILD:
            return
        while path != "/":
            path = path[: path.rfind("/")] or "/"
            for stream in self.streams(path):
                if stream.recursive:
                    yield stream

    def end(self, state: KeeperState) -> None:
        """The session is over: every watcher and stream is told, none is left."""
        # By the time the lock is let go of, nobody changes what was taken: watchers are let go of under it, too.
        with self._mutex:
            once, self._once = self._once, {"data": {}, "exist": {}, "child": {}}
            streams, self._streams = self._streams, {}
            self._recursive = 0
        for paths in once.values():
            for path, watchers in paths.items():
                for watcher in watchers:
                    self._notify(watcher, WatchedEvent(EventType.NONE, state, path))
        for path, refs in streams.items():
            for ref in refs:
                stream = ref()
                if stream is not None:
                    stream.end(WatchedEvent(EventType.NONE, state, path))

    # ---- after a new connection

    def frames(self, zxid: int, chroot: str) -> Iterator[bytes]:
        """The requests that set all watches again, as of ``zxid``: what changed since then is an event."""
        persistent: list[str] = []
        recursive: list[str] = []
        for path in list(self._streams):
            streams = self.streams(path)
            if streams:
                (recursive if streams[0].recursive else persistent).append(path)
        lists = [*map(list, self._once.values()), persistent, recursive]
        # Servers before 3.6 know neither persistent watches nor the request that sets them.
        record, op, fields = (
            (SetWatches2, OpCode.SET_WATCHES2, 5) if persistent or recursive else (SetWatches, OpCode.SET_WATCHES, 3)
        )
        header = encode(RequestHeader, (Xid.SET_WATCHES, op))
        chunk: list[list[str]] = [[] for _ in range(fields)]
        size = 0
        for index, paths in enumerate(lists):
            for path in paths:
                full = chroot + path if path != "/" or not chroot else chroot
                chunk[index].append(full)
                size += 4 + len(full.encode())
                if size >= CHUNK_BYTES:
                    yield encode_frame(header, encode(record, (zxid, *chunk)))
                    chunk = [[] for _ in range(fields)]
                    size = 0
        if size:
            yield encode_frame(header, encode(record, (zxid, *chunk)))
