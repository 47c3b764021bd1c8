"""All mutants, each by a name of its own."""

from typing import Final

from tests.mutants import command_line, governance, schema, server, sqlite, units
from tests.mutants.mutant import Mutant

__all__ = ["MUTANTS"]

MUTANTS: Final[tuple[Mutant, ...]] = (
    *units.MUTANTS,
    *sqlite.MUTANTS,
    *server.MUTANTS,
    *schema.MUTANTS,
    *governance.MUTANTS,
    *command_line.MUTANTS,
)
