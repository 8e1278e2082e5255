"""All the ways to wire a recurrent network: each public file is a topology."""
