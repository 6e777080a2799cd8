"""typer commands: parse, call a root, print."""
