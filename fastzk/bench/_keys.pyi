from fastzk.bench.plan import KeyDistribution

class KeyChooser:
    """Draws keys, numbers from 0 on, by a distribution."""

    def __init__(self, distribution: KeyDistribution, keys: int, seed: int = 0, position: int = 0) -> None: ...
    def draw(self, count: int) -> list[int]: ...
