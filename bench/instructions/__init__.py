"""How many instructions fixed pieces of work take, counted by callgrind and compared with a committed baseline.

Times on a shared machine differ by tens of percent from run to run, instruction counts by less than one in a thousand:
so a change of a few percent shows, and noise cannot hide or fake it. What is counted is what this process does for one
operation; what the kernel does for it, and waiting, is not. (A byte of a long copy counts as an instruction: it is one,
repeated.)

``workloads.py`` says what is done, ``inside.py`` does it under callgrind, ``callgrind.py`` starts that and reads what
it counted, ``__main__.py`` compares and prints.
"""
