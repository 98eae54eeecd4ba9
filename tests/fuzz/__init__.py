"""A fuzzer of programs: random message passing from primitive ops, exact on any partition or refused.

builder.py    a program as it is written, line by line, with what is known of each value
rows.py  messages.py  whole.py     the steps: ops within rows, along edges, over all rows
program.py    the source text as a module;  check.py  one machine against simulated ranks
run.py        ``PYTHONPATH=tests python -m fuzz.run --minutes 60``
"""
