"""Helpers of the tests that run real processes."""
