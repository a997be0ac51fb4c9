"""Speed and memory, one table a question: ``gramian bench``.

A table is a `gramian.lab.bench.registry.Table`. Everything that is timed is a contestant, defined once in `ours`,
`peers` or the ``jax_*`` files and compared in turns in one process; see `gramian.lab.bench.timing`.
"""
