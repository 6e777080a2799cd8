"""Is this deployment well? `checks` look, `monitor` runs them, remembers and shares; `report` is what came of it."""
