#!/usr/bin/env python3
"""Builds an image from a program: events as they come, a typed result, typed errors.

    python3 examples/python-api/build.py [CONTEXT]

Without a context it writes a small Dockerfile of its own, which needs no base image.
"""

import sys
import tempfile
from pathlib import Path

import kedge

DOCKERFILE = """\
FROM scratch AS notes
COPY *.txt /notes/
LABEL purpose="an example"
"""


def on_event(event: kedge.Event) -> None:
    """Print each step once it is done."""
    if isinstance(event, kedge.VertexEvent) and event.completed is not None:
        print(f"{'cached' if event.cached else 'done':7} {event.name}")


def build(context: Path) -> int:
    try:
        image = kedge.build(context, tags=["python-api-example"], on_event=on_event)
    except kedge.StepFailed as error:
        print(f"step failed with exit code {error.exit_code}: {error.tail.decode(errors='replace')}", file=sys.stderr)
        return 1
    except kedge.DockerfileError as error:
        print(f"{error.location}: {error.message}", file=sys.stderr)
        return 1
    except kedge.KedgeError as error:
        print(f"{error.message}. {error.hint}", file=sys.stderr)
        return 1
    print(f"id       {image.id}")
    print(f"size     {image.size} bytes in {len(image.layers)} layers")
    for layer in image.layers:
        print(f"layer    {layer.diff_id[:19]}…  {layer.size:>8}  {layer.created_by}")
    for warning in image.warnings:
        print(f"warning  {warning.rule}: {warning.message}")
    return 0


def main() -> int:
    if sys.argv[1:]:
        return build(Path(sys.argv[1]))
    with tempfile.TemporaryDirectory() as folder:
        context = Path(folder)
        (context / "Dockerfile").write_text(DOCKERFILE)
        (context / "hello.txt").write_text("hello\n")
        return build(context)


if __name__ == "__main__":
    sys.exit(main())
