"""Arch strings: one line of text that holds everything that makes a network.

    arch   := [ stem ":" ] stage { "-" stage } [ "|" group ] [ "@" opts ]
    stem   := KIND [ depth ] [ "x" width ] [ "(" opts ")" ]
    stage  := run { "+" run }                  blocks of several kinds at one resolution
    run    := KIND [ depth ] [ "x" width ] [ "(" opts ")" ]
    group  := "P" depth [ "(" opts ")" ]       parallel group, scales default 2..4
    opts   := opt { ";" opt }
    opt    := name "=" value                   a list value joins with "/"

>>> str(parse("S2x64:C2x96-C3x192-T5x384-T2x768"))
'S2x64:C2x96-C3x192-T5x384-T2x768'
>>> canonical("F2x64-F2x128(crpe=false)@crpe=true;num_heads=8")
'F2x64-F2x128(crpe=false)'

Parse and format are inverse. `resolve` fills in every default and checks that the parts fit;
`canonical` writes the shortest string of the same network: two networks never share one.
"""

from ablate.grammar.arch import Arch, Run, parse
from ablate.grammar.blueprint import Blueprint, RunSpec
from ablate.grammar.canonical import canonical
from ablate.grammar.override import override
from ablate.grammar.resolve import resolve

__all__ = ["Arch", "Blueprint", "Run", "RunSpec", "canonical", "override", "parse", "resolve"]
