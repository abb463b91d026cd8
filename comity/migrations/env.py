"""Run by Alembic. The connection comes from `comity.database`; there is no URL to configure here."""

from __future__ import annotations

from alembic import context

from comity.database import all_metadata
from comity.migrations.comparison import COMPARISON

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    # Applying revisions needs no room imported; writing one needs them all.
    target_metadata=all_metadata() if context.config.attributes["compare"] else None,
    render_as_batch=True,
    **COMPARISON,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
