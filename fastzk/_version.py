"""The one place that states fastzk's version."""

__version__ = "0.1.0"
