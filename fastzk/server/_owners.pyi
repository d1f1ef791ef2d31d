class Owners:
    """Which sessions there are once everything proposed is applied, and which server serves each."""

    def __init__(self) -> None: ...
    def __len__(self) -> int: ...
    def owner(self, session: int) -> int | None:
        """The server that serves a session; 0: none has claimed it yet; None: there is no such session."""
