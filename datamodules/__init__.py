"""Each public file is a kind of data."""
