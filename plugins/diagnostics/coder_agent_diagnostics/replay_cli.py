"""`coder lab replay`: a report's network, rebuilt in the simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coder_agent.cli.output import Output, OutputOption, note, print_json
from coder_agent.testing.lab.encoding import to_document as topology_document
from coder_agent.testing.lab.judging import search, situation_of
from coder_agent.testing.lab.replay import replayed
from coder_agent.verdict.alone import ORDINARY_PEER, is_alone
from coder_agent.verdict.document import to_document
from coder_agent.verdict.judge import judge
from coder_agent.verdict.report_file import judge_report

from .explain import evidence_lines, verdict_lines
from .report import read_report


def replay(
    file: Annotated[Path, typer.Argument(metavar="REPORT", help="written by coder netcheck or coder ping --report")],
    seed: Annotated[int, typer.Option(help="chance in the simulation: another seed is another run")] = 1,
    output: OutputOption = Output.TABLE,
) -> None:
    """Rebuild the network of a report in the simulator, and say why its path is what it is.

    Two nodes with the real path selection search for each other in it; nothing is sent, no server is needed.
    """
    told = read_report(file)
    topology = replayed(told)
    _, here, there = search(topology, seed)
    peer = ORDINARY_PEER if is_alone(told) else "the workspace"
    before, after = judge_report(told), judge(situation_of(here, there), peer)
    is_same = before.code is after.code
    if output is Output.JSON:
        print_json(
            {
                "same": is_same,
                "reported": to_document(before),
                "replayed": to_document(after),
                "topology": topology_document(topology),
            }
        )
        return
    for line in (*evidence_lines(after), *verdict_lines(after)):
        print(line)
    if is_same:
        note("the simulated network leads to the verdict of the report")
    elif is_alone(told) and told.local.facts.mapping_varies is None:
        note("the report does not know how its NAT behaves (that takes two STUN servers): this is an easy one")
    else:
        note(f"the report itself says: {before.summary} [{before.code}]; the simulated network is not quite the same")
