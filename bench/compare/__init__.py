"""The comparison that ``bench/compare.py`` runs: what is measured, on which servers, and the report."""
