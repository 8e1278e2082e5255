"""The verbs of the `unroll` command, each a thin view of the client."""
