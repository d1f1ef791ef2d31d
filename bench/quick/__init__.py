"""``make bench-quick``: what a developer runs in seconds. A package, so that other tests may have the same names."""
