"""kazoo's own tests with fastzk.Client behind kazoo's name."""
