"""Run a command with one of several instruction sets, other than the one that stored the outputs of the notebooks.

    python book/_tools/instructions.py [NAME] -- COMMAND ...

Libraries ask the processor what it can do, and round differently with each answer. The outputs that are stored must not
show it. Without NAME the commit's hash chooses, so that all settings have their turn, and a commit always has the same.
A setting is offered where the processor has its instructions: some libraries would fall back, others end with an
illegal instruction. What the processor has beyond them is not used.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

__all__ = ["ALL", "X86_64", "Setting", "choose", "environment", "main", "offered"]

#: What a processor must have, and the variables.
Setting = tuple[str, dict[str, str]]

# PyTorch's own kernels, its two libraries (oneDNN, MKL), NumPy's kernels, its library (OpenBLAS), and Numba. OpenBLAS
# has kernels for each maker. Threads: of products of large matrices; most chapters bind PyTorch to one.
X86_64: dict[str, Setting] = {
    "free": ("", {}),  # whatever libraries choose; not even the variables of the Makefile
    "sse": ("sse4_2", {
        "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE",
        "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4", "OPENBLAS_CORETYPE": "NEHALEM", "NUMBA_CPU_NAME": "generic",
        "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
    }),
    "intel": ("avx2", {
        "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "NPY_DISABLE_CPU_FEATURES": "X86_V4",
        "OPENBLAS_CORETYPE": "HASWELL", "NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "",
        "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2",
    }),
    "amd": ("avx2", {
        "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2",
        "NPY_DISABLE_CPU_FEATURES": "X86_V4", "OPENBLAS_CORETYPE": "ZEN", "NUMBA_CPU_NAME": "znver1",
        "NUMBA_CPU_FEATURES": "", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
    }),
    "avx512": ("avx512dq", {
        "ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "OPENBLAS_CORETYPE": "SKYLAKEX",
        "NUMBA_CPU_NAME": "skylake-avx512", "NUMBA_CPU_FEATURES": "",
        "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2",
    }),
}  # fmt: skip
ALL: dict[str, Setting] = {  # for other processors
    "free": ("", {}),
    "one-thread": ("", {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}),
    "two-threads": ("", {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}),
}
VARIABLES = sorted({variable for table in (X86_64, ALL) for _, setting in table.values() for variable in setting})


def offered(machine: str = platform.machine(), cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, dict[str, str]]:
    """Return the settings that can run on a machine, by name; without ``cpuinfo`` those that need nothing special."""
    table = X86_64 if machine.lower() in ("x86_64", "amd64") else ALL
    flags = set(cpuinfo.read_text("utf-8").split()) if cpuinfo.is_file() else set()
    return {name: setting for name, (needed, setting) in table.items() if not needed or needed in flags}


def choose(names: list[str], name: str | None, commit: str) -> str:
    """Return ``name``, or if there is none the one of ``names`` that the hash of a commit chooses, ``""`` the first.

    Raises:
        ValueError: there is no setting of this name.
    """
    if name is not None and name not in names:
        raise ValueError(f"there is no setting {name!r}; there are {', '.join(names)}")
    return name or names[int(commit or "0", 16) % len(names)]


def environment(setting: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """Return ``given`` with the variables of a setting, and without all those of other settings."""
    return {name: value for name, value in given.items() if name not in VARIABLES} | dict(setting)


def commit() -> str:
    """Return the hash of the commit that is checked out; ``""`` without git, or outside a checkout."""
    try:
        command = ["git", "rev-parse", "HEAD"]
        result = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


def main(argv: list[str]) -> int:
    """Become the command that the command line names; return only if there is none, or no such setting."""
    end = argv.index("--") if "--" in argv else len(argv)
    names, command = argv[:end], argv[end + 1 :]
    settings = offered()
    if len(names) > 1 or not command:
        print(f"usage: instructions.py [{' | '.join(settings)}] -- COMMAND ...", file=sys.stderr)
        return 2
    try:
        name = choose(list(settings), names[0] if names else None, commit())
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"instruction set: {name}; this one again: make nbval ISA={name}", flush=True)
    os.execvpe(command[0], command, environment(settings[name], os.environ))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
