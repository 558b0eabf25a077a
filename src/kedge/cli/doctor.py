"""kedge doctor: what this machine allows, what is missing, and the one command that mends it."""

from kedge.cli.command import Command, Flag, Options
from kedge.cli.console import Console
from kedge.model.errors import Unsupported


def work(options: Options, console: Console) -> int:
    failure = _enter(console)
    from kedge.sandbox.doctor import checks
    from kedge.storage.store import default_root

    found = checks(console.root or default_root(), console.settings().sandbox.process_sandbox)
    if options.format == "json":
        import json

        console.print(
            json.dumps(
                [
                    {"name": c.name, "ok": c.ok, "needed": c.needed, "detail": c.detail, "remedy": c.remedy}
                    for c in found
                ],
                indent=2,
            )
        )
    else:
        for check in found:
            mark = "ok     " if check.ok else "MISSING" if check.needed else "no     "
            console.print(f"{mark}  {check.name:24}  {check.detail}")
            if check.remedy and not check.ok:
                console.print(f"{'':35}-> {check.remedy}")
    wrong = [check.name for check in found if check.needed and not check.ok]
    if failure:
        raise failure
    if wrong:
        raise Unsupported(f"steps cannot run here: {', '.join(wrong)}", hint="See the remedies above.")
    if not options.format:
        console.print()
        console.print("Kedge can build here.")
    return 0


def _enter(console: Console) -> Unsupported | None:
    """Who may not mount is told what a namespace allows; that there is none is an answer, too."""
    try:
        console.enter_user_namespace()
    except Unsupported as error:
        return error
    return None


COMMAND = Command(
    "doctor",
    "Check what this machine allows and say what is missing",
    work,
    (Flag("format", "How to answer", metavar="FORMAT", choices=("json",)),),
    description="Every check is tried for real. The exit code is 1 when steps cannot run here.",
    privileged=False,
)
