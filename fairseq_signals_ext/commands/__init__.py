"""Commands: each module has `add_arguments(parser)`, `run(args) -> int` and `main(argv) -> int`."""
