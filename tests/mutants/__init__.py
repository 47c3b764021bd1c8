"""Faults that the tests must notice: each is planted alone in a copy of the tree, and tests that should fail are run.

`make mutants` runs all of them. The lists stand beside this file, one module a subject.
"""
