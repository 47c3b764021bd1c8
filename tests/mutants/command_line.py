"""Faults in the command line: what a program reads from it, and what a terminal obeys."""

from typing import Final

from tests.mutants.mutant import Mutant

__all__ = ["MUTANTS"]

_CLI: Final = "src/operator_core/cli/"
_JSON: Final = "tests/cli/test_json_as_written.py::test_text_that_looks_like_markup_is_text"

MUTANTS: Final = (
    Mutant(
        name="list-json-through-markup",
        file=_CLI + "actions.py",
        old="            print_json(proposal)\n",
        new='            __import__("rich").print(proposal.model_dump_json())\n',
        tests=(_JSON,),
        why="list --json loses what looks like markup.",
    ),
    Mutant(
        name="show-json-through-markup",
        file=_CLI + "actions.py",
        old='        print_json(\n            {\n                "proposal": proposal,\n',
        new='        __import__("rich").print(\'{"proposal": \' + proposal.model_dump_json() + "}") or dict(\n'
        '            {\n                "proposal": proposal,\n',
        tests=(_JSON,),
        why="show --json loses what looks like markup.",
    ),
    Mutant(
        name="claim-json-through-markup",
        file=_CLI + "work_commands.py",
        old='            print_json({"proposal": claim.proposal, "record": claim.record})\n',
        new='            __import__("rich").print(claim.model_dump_json())\n',
        tests=(_JSON,),
        why="claim --json loses what looks like markup.",
    ),
    Mutant(
        name="json-through-markup",
        file=_CLI + "output.py",
        old='    write(json_line(value) + "\\n")\n',
        new="    Console().print(json_line(value))\n",
        tests=(_JSON,),
        why="--json loses what looks like markup, and is wrapped.",
    ),
)
