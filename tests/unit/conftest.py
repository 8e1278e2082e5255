"""What the quick tests share."""

from hypothesis import settings

# Fewer examples than the usual 100, so that the tests stay quick, but others on each run, under CI
# as well: what one run does not find, a later one does. Tests that need more say so themselves.
settings.register_profile(
    "unit", max_examples=40, deadline=None, derandomize=False, print_blob=True
)
settings.load_profile("unit")
