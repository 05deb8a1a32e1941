"""Commands: each module has `add_arguments(parser)` and `run(options) -> int`; its import needs no optional package."""
