"""The worker: a supervising half that speaks to Redis, and a training half that knows torch."""
