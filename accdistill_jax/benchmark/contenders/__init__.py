"""Programs that are compared with each other, a file each.

A contender's module has `prepare_contender(order)`, which returns facts (JSON) and a function `run(count)` that does the work
`count` times. Run as a program, it serves `contest.compete`.
"""
