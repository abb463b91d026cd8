"""Environments of their own for peers, made on first use from their pinned requirements."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ENVIRONMENTS = HERE / ".environments"


def peer_python(name: str) -> Path:
    """The interpreter of the environment for `peers/<name>.txt`."""
    requirements = HERE / "peers" / f"{name}.txt"
    home = ENVIRONMENTS / name
    stamp, wanted = home / ".installed", hashlib.sha256(requirements.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        print("Installing the peer into", home, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        pip = [home / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([*pip, "-r", requirements], check=False)
        if done.returncode:
            raise SystemExit("The peer could not be installed; use --no-peers to measure Comity alone.")
        stamp.write_text(wanted)
    return home / "bin" / "python"
