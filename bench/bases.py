"""examples/bases, which are scripts and no package: the images that are built on, and the registry that serves them."""

import importlib.util
from pathlib import Path
from typing import Any


def _script() -> Any:
    path = Path(__file__).resolve().parents[1] / "examples" / "bases" / "serve.py"
    spec = importlib.util.spec_from_file_location("kedge_bases_serve", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def served(names: list[str]) -> Any:
    """A context manager: the registry with these bases, by `address`."""
    return _script().Served(names)


def tar_of(name: str) -> Path:
    """A base's root file system."""
    return Path(_script().make.make(name))
