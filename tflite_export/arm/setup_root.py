"""Downloads the emulator and an AArch64 system, and builds the counter.

Nothing is installed on this machine. apt has its own lists and an empty package
database here, and only downloads. Packages and wheels are unpacked into one
folder, which appears complete or not at all.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tflite_export.arm import emulator

GUEST_PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6")
# Not its static variant, which loads no plugins.
HOST_PACKAGES = ("qemu-user",)
_WHEEL_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64")
_COUNTER_SOURCE = Path(__file__).with_name("instruction_counter.c")
_TOOLS = {"apt-get": "apt", "dpkg-deb": "dpkg", "gcc": "gcc and libc6-dev"}
_NUM_ERROR_LINES = 8


def set_up(destination: Path, report: Callable[[str], None]) -> None:
    """Makes the folder of `emulator`; this takes minutes, once.

    A folder for other versions is replaced; an error leaves nothing. `report`
    takes a line of text at each step.
    """
    _require_tools()
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=destination.parent, prefix=f".{destination.name}."
    ) as temporary:
        new = Path(temporary, "new")
        scratch = Path(temporary, "scratch")
        new.mkdir()
        report("Downloading QEMU and an AArch64 Python from the distribution")
        _unpack_guest(scratch / "guest", new / "root")
        _unpack_emulator(scratch / "host", new / "qemu")
        report("Downloading the AArch64 wheels of LiteRT and NumPy")
        _unpack_wheels(scratch / "wheels", new)
        report("Compiling the instruction counter")
        _compile(_COUNTER_SOURCE, new / emulator.COUNTER)
        for cpu in emulator.CPUS:
            _write_cpu_folder(new, cpu)
        report("Importing LiteRT on each emulated CPU")
        for cpu in emulator.CPUS:
            _try(new, cpu)
        manifest = json.dumps(emulator.manifest())
        (new / emulator.MANIFEST).write_text(manifest)
        if destination.exists():
            destination.rename(Path(temporary, "old"))
        new.rename(destination)


def _require_tools() -> None:
    absent = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if absent:
        packages = " ".join(_TOOLS[tool] for tool in absent)
        raise RuntimeError(
            "Expected a Debian-like Linux with apt-get, dpkg-deb and gcc. "
            f"Received: no {', no '.join(absent)}. Install {packages}."
        )


def _unpack_guest(scratch: Path, root: Path) -> None:
    for package in _download(GUEST_PACKAGES, scratch, architecture="arm64"):
        _run(["dpkg-deb", "-x", str(package), str(root)])


def _unpack_emulator(scratch: Path, destination: Path) -> None:
    """Keeps the emulator of one architecture, and its libraries."""
    architecture = _run(["dpkg", "--print-architecture"]).strip()
    root = scratch / "root"
    for package in _download(HOST_PACKAGES, scratch, architecture=architecture):
        # This machine's loader and C library belong together.
        if not package.name.startswith("libc6_"):
            _run(["dpkg-deb", "-x", str(package), str(root)])
    libraries = destination / "lib"
    libraries.mkdir(parents=True)
    for pattern in ("lib/*/lib*.so*", "usr/lib/*/lib*.so*"):
        for path in root.glob(pattern):
            shutil.copy(path, libraries, follow_symlinks=False)
    shutil.copy(root / "usr/bin/qemu-aarch64", destination)


def _download(
    names: Sequence[str], scratch: Path, *, architecture: str
) -> list[Path]:
    """Returns the files of packages and of all their dependencies."""
    for name in ("lists/partial", "state", "cache/archives/partial"):
        (scratch / name).mkdir(parents=True)
    # An empty database: every dependency is downloaded.
    (scratch / "status").touch()
    options = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "Dir::Cache": scratch / "cache",
        "Dir::State": scratch / "state",
        "Dir::State::lists": scratch / "lists",
        "Dir::State::status": scratch / "status",
    }
    apt = ["apt-get", *(f"-o{name}={value}" for name, value in options.items())]
    # A broken third source is no obstacle; a missing package fails below.
    _run([*apt, "-q", "update"], check=False)
    _run([*apt, "-q", "--yes", "--download-only", "install", *names])
    return sorted((scratch / "cache/archives").glob("*.deb"))


def _unpack_wheels(scratch: Path, new: Path) -> None:
    (python,) = (new / "root/usr/bin").glob("python3.*[0-9]")
    version = python.name.removeprefix("python")
    needed = emulator.manifest()
    _run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
            *("--disable-pip-version-check", "--only-binary=:all:"),
            *("--implementation", "cp", "--python-version", version),
            *("--abi", f"cp{version.replace('.', '')}"),
            *(f"--platform={platform}" for platform in _WHEEL_PLATFORMS),
            *("--dest", str(scratch)),
            *(f"{name}=={needed[name]}" for name in emulator.WHEELS),
        ]
    )
    for wheel in scratch.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(new / "site")


def _compile(source: Path, library: Path) -> None:
    flags = ("-O2", "-Wall", "-Werror", "-shared", "-fPIC")
    _run(["gcc", *flags, "-o", str(library), str(source)])


def _write_cpu_folder(new: Path, cpu: str) -> None:
    """Makes the guest's `/`; the rest is the host's."""
    folder = new / "cpus" / cpu
    (folder / "proc").mkdir(parents=True)
    for name in ("lib", "usr", "etc"):
        (folder / name).symlink_to(Path("../../root", name))
    part, features = emulator.CPU_INFO[cpu]
    fields = {
        "processor": "0",
        "BogoMIPS": "243.75",
        "Features": features,
        "CPU implementer": "0x41",
        "CPU architecture": "8",
        "CPU variant": "0x0",
        "CPU part": part,
        "CPU revision": "4",
    }
    text = "".join(f"{name}\t: {value}\n" for name, value in fields.items())
    (folder / "proc" / "cpuinfo").write_text(f"{text}\n")


def _try(new: Path, cpu: str) -> None:
    words = emulator.command(new, cpu, plugin=emulator.COUNTER)
    _run([*words, "-c", "import ai_edge_litert.interpreter"])


def _run(command: Sequence[str], *, check: bool = True) -> str:
    """Returns the output of a command; a failure is an error with its log."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, "LC_ALL": "C"},
        check=False,
    )
    if check and done.returncode:
        lines = f"{done.stdout}\n{done.stderr}".strip().splitlines()
        raise RuntimeError(
            f"Expected `{Path(command[0]).name}` to succeed. Received: exit "
            f"code {done.returncode} of `{' '.join(map(str, command))}`. The "
            "end of its log:\n" + "\n".join(lines[-_NUM_ERROR_LINES:])
        )
    return done.stdout
