"""The training half: the only code of the worker that imports torch."""
