"""One walk over a tree, and every record of packages met on it.

Owns the order and the bounds of the whole. Does not know formats.
"""

from kedge.exporters.sbom.files import Files
from kedge.exporters.sbom.golang import golang, may_be_go
from kedge.exporters.sbom.languages import is_node, is_python, node, python
from kedge.exporters.sbom.package import Package
from kedge.exporters.sbom.records import System, apk, dpkg, read_system
from kedge.exporters.sbom.rpm import rpm
from kedge.model.value import dataclass

MOST_PACKAGES = 200_000


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a tree holds: its system and its packages, sorted. `truncated`: a bound was met, so there may be more."""

    system: System
    packages: tuple[Package, ...]
    truncated: bool = False


def scan(root: int) -> Inventory:
    """The packages of the tree below a directory descriptor. Opens only regular files, inside the tree."""
    files = Files(root)
    system = read_system(files)
    found: dict[tuple[str, str], Package] = {}

    def add(package: Package) -> bool:
        # One record of a package is enough; the same one in two places is two.
        found.setdefault((package.url, package.found), package)
        return len(found) < MOST_PACKAGES

    full = not all(add(package) for reader in (dpkg, apk, rpm) for package in reader(files, system))
    for file in files.walk():
        readers = ((is_python, python), (is_node, node), (may_be_go, golang))
        reader = next((read for matches, read in readers if matches(file)), None)
        if full or (reader and not all(add(package) for package in reader(files, file))):
            full = True
            break
    return Inventory(system, tuple(_without_locks(sorted(found.values()))), files.truncated or full)


def _without_locks(packages: list[Package]) -> list[Package]:
    """A lock file's word only counts for what is not there as files."""
    there = {package.url for package in packages if not package.found.endswith((".json",)) or _is_module(package)}
    return [p for p in packages if p.kind != "npm" or _is_module(p) or p.url not in there]


def _is_module(package: Package) -> bool:
    return package.found.endswith("/package.json")
