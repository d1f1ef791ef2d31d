"""The atomic broadcast between the servers of an ensemble, as a pure state machine.

Nothing here has sockets, files, clocks or randomness of its own, and nothing imports the server: the same
code runs in a server (fastzk/server/ensemble.py) and, under a seeded scheduler, in the tests.
"""
