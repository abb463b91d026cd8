"""Schema migrations of the whole node (Alembic): one environment over the tables of every package.

`python -m comity.migrations "why"` writes the next revision from what the packages' tables are now.
`python -m comity.migrations --initial` writes the first one afresh (before a release only).
"""
