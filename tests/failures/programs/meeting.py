"""How the children of a test wait for one another."""

import sys


def meet(where: str) -> None:
    """Says that it is there and waits until the test lets all of them go on."""
    print(where, flush=True)
    sys.stdin.readline()
