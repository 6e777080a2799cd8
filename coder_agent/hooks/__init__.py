"""The only doorway for plugins: hook markers, interfaces, events, settings, manager. Read hookspecs.py first."""
