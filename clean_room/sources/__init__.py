"""Where rows come from: files, a query in DuckDB, or a query to a database server through ADBC.

>>> import tempfile, pathlib
>>> from clean_room.sources import DuckDBSource
>>> with tempfile.TemporaryDirectory() as folder:
...     people = pathlib.Path(folder) / "people.csv"
...     _ = people.write_text("email,visits\\nada@example.org,3\\nbob@example.org,1\\n")
...     source = DuckDBSource("regulars", "SELECT email FROM people WHERE visits > 2", ("email",),
...                           files={"people": people})
...     with source.opened(text=["email"]) as opened:
...         opened.present(["email"])
...         opened.connection.sql("FROM source").fetchall()
[('ada@example.org',)]
"""

from __future__ import annotations

from clean_room.sources.adbc import AdbcSource
from clean_room.sources.duckdb_sql import DuckDBSource
from clean_room.sources.files import FileSource
from clean_room.sources.source import Opened, Source, SourceState

__all__ = ["AdbcSource", "DuckDBSource", "FileSource", "Opened", "Source", "SourceState"]
