"""What a job is, and everything that speaks to Redis. Never imports torch."""
