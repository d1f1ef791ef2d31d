"""Whole ensembles in one process, under a seeded scheduler: virtual time, and one source of chance.

``python -m tests.simulation --seeds 1-10000`` runs seeds on all cores, ``--seed 17 --trace`` shows one.
Read ``world.py`` first, then ``server.py`` (what a server does around the broadcast) and ``checker.py`` (what must
hold); ``simulation.py`` is what a seed makes of them, ``scenario.py`` what a text does.
"""
