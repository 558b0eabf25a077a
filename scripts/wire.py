"""Compiles the service's .proto files into src/kedge/daemon/wire/descriptors.binpb. Needs grpcio-tools."""

import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src"
WIRE = SOURCE / "kedge" / "daemon" / "wire"


def main() -> None:
    output = WIRE / "descriptors.binpb"
    protos = sorted(str(path.relative_to(SOURCE)) for path in WIRE.glob("*.proto"))
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            "-I.",
            "--include_imports",
            f"--descriptor_set_out={output}",
            *protos,
        ],
        cwd=SOURCE,
        check=True,
    )


if __name__ == "__main__":
    main()
