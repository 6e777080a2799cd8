"""Alembic's entry: migrate.py hands over a connection with an open transaction; there is no other way to run this."""

from alembic import context
from coder_agent_server.store.schema import Base

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, render_as_batch=True
)
context.run_migrations()
