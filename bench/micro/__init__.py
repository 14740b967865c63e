"""Micro-benchmarks, a module for each module of fastrouter, so that a regression names its module.

    make bench-micro                                  # all of them, half a minute, one table a module
    python -m bench.micro -k pool                     # arguments go to pytest and pytest-benchmark
    python -m bench.micro --benchmark-autosave        # keep this run (bench/results/raw/micro)
    python -m bench.micro --benchmark-compare         # against the last kept run; a number names another
    python -m bench.micro --benchmark-compare --benchmark-compare-fail=median:20%

They call what the router calls (`HeadCache.get`, `plan_request`, `Pool.reuse`, ...), in one process and
without sockets: good for comparing two versions of one module, and for nothing else. Times of different
machines do not compare, and their sum is not the cost of a request; `make bench` measures that.

What is kept by key is measured at 1 and at MICRO_KEYS (100,000) keys: always the same one of them ("one of
..."), which an algorithm that does not grow with the number of keys answers in the same time, and all of
them in random order ("all ..."), which adds the processor's cache misses. The ratios to 1 key are printed
below the tables.
"""
