"""Generates the code of `proto/` with the pinned compiler: `python -m hil_tests.generate_proto [--check]`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "proto").rglob("*.proto"))
PLUGINS = Path(sys.executable).parent
PATTERNS = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


def generate(into: Path) -> None:
    """Write the generated modules below `into`, laid out as in the project. Raises RuntimeError when protoc fails."""
    status = protoc.main(
        [
            "protoc",
            f"--proto_path={ROOT}",
            f"--plugin=protoc-gen-mypy={PLUGINS / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={PLUGINS / 'protoc-gen-mypy_grpc'}",
            f"--python_out={into}",
            f"--grpc_python_out={into}",
            f"--mypy_out={into}",
            f"--mypy_grpc_out={into}",
            *SOURCES,
        ]
    )
    if status != 0:
        raise RuntimeError(f"protoc ended with status {status} for {SOURCES}")


def stale_files() -> list[str]:
    """Names of committed files that differ from what the compiler makes now, or are missing."""
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        return [
            made.relative_to(scratch).as_posix()
            for pattern in PATTERNS
            for made in sorted(Path(scratch).rglob(pattern))
            if not (ROOT / made.relative_to(scratch)).exists()
            or (ROOT / made.relative_to(scratch)).read_bytes() != made.read_bytes()
        ]


def main() -> int:
    """Generate in place, or with --check only say what is stale. Exit code 1 when something is."""
    if "--check" in sys.argv[1:]:
        stale = stale_files()
        for name in stale:
            print(f"stale: {name}: run python -m hil_tests.generate_proto")
        return 1 if stale else 0
    generate(ROOT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
