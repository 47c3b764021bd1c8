"""Faults in the command line: what a program reads from it, and what a terminal obeys."""

from typing import Final

from tests.mutants.mutant import Mutant

__all__ = ["MUTANTS"]

_CLI: Final = "src/operator_core/cli/"
_JSON: Final = "tests/cli/test_json_as_written.py::test_text_that_looks_like_markup_is_text"

MUTANTS: Final = (
    Mutant(
        name="list-json-through-markup",
        file=_CLI + "list_commands.py",
        old="            print_json(proposal if chosen is None else _chosen(proposal, chosen))\n",
        new='            __import__("rich").print(proposal.model_dump_json())\n',
        tests=(_JSON,),
        why="list --json loses what looks like markup.",
    ),
    Mutant(
        name="show-json-through-markup",
        file=_CLI + "show_commands.py",
        old="        print_json(story_json(story))\n",
        new='        __import__("rich").print(\'{"proposal": \' + story.proposal.model_dump_json() + "}")\n',
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
        old='        stream.write(json_line(value) + "\\n")\n',
        new="        Console(file=stream).print(json_line(value))\n",
        tests=(_JSON,),
        why="--json loses what looks like markup, and is wrapped.",
    ),
)
