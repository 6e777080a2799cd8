"""What survives a restart: users, keys, workspaces, agents. SQLite through SQLAlchemy 2 (async), migrated by Alembic.

Read schema.py for the tables, database.py for how a file is opened. The other modules are one area of queries each;
they take a session, so that several of them may share one transaction.
"""
