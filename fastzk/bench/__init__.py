"""``fastzk-bench``: load on any server that speaks ZooKeeper's client protocol, and how long its answers took.

    cli.py            the command: arguments to a plan, a report to stdout
    plan.py           what to do: mix of operations, distribution of keys, loop, times
    runner.py         one run: prepares znodes, starts the workers, shows progress, merges, cleans up
    worker.py         one process of it
    _load.pyx         its loop: all of its connections in one thread, without the GIL
    frames.py         the requests it sends, encoded beforehand
    _keys.pyx         which key is next
    _histogram.pyx    latencies, in HdrHistogram's layout and format
    results.py        what a run found, as one record that can be merged
    report.py         that as a table, and as JSON
"""
