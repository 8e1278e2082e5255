"""Kinds of data: each public file holds one, and joins the catalogue by being there."""
