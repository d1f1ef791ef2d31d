"""What happened, for a person to read: one line an event. Formatted only if somebody looks."""

from __future__ import annotations

from collections import deque
from dataclasses import fields, is_dataclass
from typing import Any

from fastzk.server.zab.messages import Heartbeat, HeartbeatAck, Proposal


class Trace:
    """The last `limit` events, or all of them (None)."""

    def __init__(self, limit: int | None = 250) -> None:
        self._lines: deque[tuple[int, Any, str, tuple[Any, ...]]] = deque(maxlen=limit)

    def add(self, now: int, who: object, what: str, *args: Any) -> None:
        """`who` did `what`; `now` in microseconds. The arguments must not change any more."""
        if args and isinstance(args[-1], Heartbeat | HeartbeatAck) and self._lines.maxlen is not None:
            return  # they would push out everything else
        self._lines.append((now, who, what, args))

    def text(self) -> str:
        """All of it."""
        return "\n".join(
            f"{now / 1000:10.3f} {who!s:>5}  {what:<10} {' '.join(show(each) for each in args)}"
            for now, who, what, args in self._lines
        )


def zxid_text(zxid: int) -> str:
    """A zxid as ``epoch:counter``."""
    return f"{zxid >> 32}:{zxid & 0xFFFFFFFF}" if zxid >= 0 else "none"


def show(value: Any) -> str:
    """A value as it stands in a trace."""
    if isinstance(value, Proposal):
        return f"[{zxid_text(value.first_zxid)}-{value.last_zxid & 0xFFFFFFFF}]"
    if is_dataclass(value) and not isinstance(value, type) and not hasattr(value, "members"):
        parts = (f"{each.name}={_field(each.name, getattr(value, each.name))}" for each in fields(value))
        return f"{type(value).__name__}({' '.join(parts)})"
    if isinstance(value, int) and not isinstance(value, bool) and value > 1 << 31 and value < 1 << 50:
        return zxid_text(value)
    return str(value)


def _field(name: str, value: Any) -> str:
    if name in ("zxid", "commit", "last_zxid", "previous"):
        return zxid_text(value)
    if name == "round":
        return str(value % 100_000)
    return show(value)
