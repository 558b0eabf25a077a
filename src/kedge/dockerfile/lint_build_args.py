"""A check of Kedge's own: build arguments that seem to be mistyped, here or in the Dockerfile.

Owns which build arguments are meant for an ARG. Does not know their values. A build argument that no ARG is near to is
left alone: the same arguments are often given to many files.
"""

from collections.abc import Iterable
from itertools import islice
from posixpath import commonprefix

from kedge.dockerfile.findings import Findings
from kedge.dockerfile.instructions import Arg
from kedge.dockerfile.stages import StagedFile

RULE = "UndeclaredBuildArg"
_MOST = 300  # of either: where there are more, nobody looks for one that is mistyped
_PREDEFINED = frozenset(
    f"{side}{part}"
    for side in ("BUILD", "TARGET")
    for part in ("PLATFORM", "OS", "OSVERSION", "ARCH", "VARIANT", "STAGE")
) | {"SOURCE_DATE_EPOCH"}


def check_build_args(file: StagedFile, names: Iterable[str], findings: Findings) -> None:
    """Report each of `names` that no ARG declares while one is near, at the ARG that is."""
    declared: dict[str, Arg] = {}
    for instruction in (*file.args, *(command for stage in file.stages for command in stage.commands)):
        if isinstance(instruction, Arg):
            for entry in instruction.args:
                declared.setdefault(entry.key, instruction)
    unknown = [name for name in names if name not in declared and not _is_predefined(name)]
    for name in unknown[:_MOST]:
        found = next((known for known in islice(declared, _MOST) if _is_slip(name, known)), None)
        if found:
            arg = declared[found]
            findings.report(RULE, arg.location, name, found, comments=arg.comments)


def _is_slip(name: str, known: str) -> bool:
    """Whether one edit or another case makes them equal. A replaced letter is no slip: PHP_HOME is not PIP_HOME."""
    short, long = sorted((name.lower(), known.lower()), key=len)
    if len(long) - len(short) > 1:
        return False
    at = len(commonprefix((short, long)))
    if len(short) < len(long):
        return short[at:] == long[at + 1 :]
    return short[at + 2 :] == long[at + 2 :] and short[at : at + 2] == long[at : at + 2][::-1]


def _is_predefined(name: str) -> bool:
    return name in _PREDEFINED or name.startswith("BUILDKIT_") or name.lower().endswith("_proxy")
