"""Write a revision: `python -m comity.migrations "why"`, or `--initial` to write the first one afresh."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from alembic import command

from comity.database import MIGRATIONS, alembic_config, migrate, open_engine


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m comity.migrations", description=__doc__)
    parser.add_argument("why", nargs="?", default="The tables of the first release")
    parser.add_argument("--initial", action="store_true", help="delete every revision and start over")
    given = parser.parse_args()
    versions = MIGRATIONS / "versions"
    if given.initial:
        for old in versions.glob("*.py"):
            old.unlink()
    number = len(list(versions.glob("*.py"))) + 1
    with tempfile.TemporaryDirectory() as folder:
        engine = open_engine(f"sqlite:///{Path(folder) / 'empty.db'}")
        try:
            if number > 1:
                migrate(engine)
            with engine.connect() as connection:
                command.revision(
                    alembic_config(connection, compare=True),
                    given.why,
                    autogenerate=True,
                    rev_id=f"{number:04d}",
                )
        finally:
            engine.dispose()
    written = sorted(versions.glob(f"{number:04d}*.py"))
    for path in written:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join(line for line in lines if "# ###" not in line), encoding="utf-8")
    for tool in (["format", "--quiet"], ["check", "--fix", "--quiet"]):
        subprocess.run([sys.executable, "-m", "ruff", *tool, *written], check=False)
    sys.stdout.write("".join(f"{path}\n" for path in written))


if __name__ == "__main__":
    main()
