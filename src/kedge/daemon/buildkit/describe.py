"""The frontend's answer to what it can be asked: `frontend.subrequests.describe`.

Owns the list and its two forms.
"""

import json
from typing import Final

_RESULTS: Final = [{"Name": "result.json"}, {"Name": "result.txt"}]
_REQUESTS: Final = (
    ("frontend.outline", "Outline", "List all parameters current build target supports"),
    ("frontend.targets", "List targets", "List all targets current build supports"),
    ("frontend.lint", "Lint", "Lint source for errors"),
    ("frontend.subrequests.describe", "Describe", "List available subrequest types"),
)


def describe() -> dict[str, bytes]:
    """The metadata of the answer."""
    requests = [
        {
            "Name": name,
            "Version": "1.0.0",
            "Type": "rpc",
            "Description": text,
            "Opts": None,
            "Inputs": None,
            "Metadata": _RESULTS,
            "Refs": None,
        }
        for name, _, text in _REQUESTS
    ]
    width = max(len(name) for name, _, _ in _REQUESTS) + 1
    rows = [("NAME", "VERSION DESCRIPTION"), *((name, f"1.0.0   {text}") for name, _, text in _REQUESTS)]
    table = "".join(f"{name:{width}}{rest}\n" for name, rest in rows)
    return {
        "result.json": json.dumps(requests, indent=2).encode(),
        "result.txt": table.encode(),
        "version": b"1.0.0",
    }
