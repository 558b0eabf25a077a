"""Records of system package managers that are plain text: dpkg's and apk's.

Owns deb822 paragraphs (deb-control(5)) and apk's installed database. Bounded by the reader that brings the bytes.
"""

from collections.abc import Iterator

from kedge.exporters.sbom.files import Files, text_of
from kedge.exporters.sbom.package import Package, believable
from kedge.model.value import dataclass

_LARGEST = 128 << 20  # bytes of a database
_LONGEST_FIELD = 4096
_APK = ("lib/apk/db/installed", "usr/lib/apk/db/installed")


@dataclass(frozen=True, slots=True)
class System:
    """os-release(5): what tells packages of distributions apart."""

    id: str = ""
    version: str = ""

    @property
    def distro(self) -> str:
        return "-".join(filter(None, (self.id, self.version)))


def read_system(files: Files) -> System:
    """The tree's os-release; empty where there is none."""
    data = files.read("etc/os-release", 1 << 16) or files.read("usr/lib/os-release", 1 << 16) or b""
    fields = dict(line.partition("=")[::2] for line in text_of(data).splitlines() if "=" in line)
    values = {key: believable(value.strip().strip("\"'")) for key, value in fields.items()}
    return System(values.get("ID", ""), values.get("VERSION_ID", ""))


# ---- dpkg ------------------------------------------------------------------------------------------------------------


def dpkg(files: Files, system: System) -> Iterator[Package]:
    """What dpkg has installed: its status file, and status.d of images that were made without dpkg."""
    paths = ["var/lib/dpkg/status"]
    paths += [f"var/lib/dpkg/status.d/{name}" for name in files.names("var/lib/dpkg/status.d")]
    for path in paths:
        if path.endswith((".md5sums", ".preinst", ".postinst")):
            continue
        for fields in paragraphs(text_of(files.read(path, _LARGEST) or b"")):
            status = fields.get("Status", "install ok installed").split()
            if status[-1:] != ["installed"]:
                continue
            name, version = believable(fields.get("Package")), believable(fields.get("Version"))
            if name and version:
                yield _deb(fields, name, version, path, system)


def _deb(fields: dict[str, str], name: str, version: str, path: str, system: System) -> Package:
    source = believable(fields.get("Source", "").partition(" ")[0])
    qualifiers = {"arch": believable(fields.get("Architecture", "")), "distro": system.distro}
    return Package(
        "deb",
        name,
        version,
        path,
        system.id or "debian",
        tuple(sorted(qualifiers.items())),
        supplier=believable(fields.get("Maintainer", "")),
        source=source if source != name else "",
    )


def paragraphs(text: str) -> Iterator[dict[str, str]]:
    """deb822 paragraphs; of folded fields only the first line, which is all that is asked here."""
    fields: dict[str, str] = {}
    for line in text.split("\n"):
        if not line.strip():
            if fields:
                yield fields
            fields = {}
        elif line[0] not in " \t":
            key, colon, value = line.partition(":")
            if colon:
                fields[key] = value[:_LONGEST_FIELD].strip()
    if fields:
        yield fields


# ---- apk -------------------------------------------------------------------------------------------------------------


def apk(files: Files, system: System) -> Iterator[Package]:
    """What apk has installed: one letter, a colon and a value in each line, a blank line between packages."""
    seen = set[str]()
    for path in _APK:
        data = files.read(path, _LARGEST)
        if data is None or (text := text_of(data)) in seen:
            continue  # one is a link to the other where /lib was merged into /usr
        seen.add(text)
        for block in text.split("\n\n"):
            fields = {line[0]: line[2:_LONGEST_FIELD] for line in block.split("\n") if line[1:2] == ":"}
            name, version = believable(fields.get("P")), believable(fields.get("V"))
            if name and version:
                qualifiers = {"arch": believable(fields.get("A", "")), "distro": system.distro}
                origin = believable(fields.get("o", ""))
                yield Package(
                    "apk",
                    name,
                    version,
                    path,
                    system.id or "alpine",
                    tuple(sorted(qualifiers.items())),
                    license=believable(fields.get("L", "")),
                    supplier=believable(fields.get("m", "")),
                    source=origin if origin != name else "",
                )
