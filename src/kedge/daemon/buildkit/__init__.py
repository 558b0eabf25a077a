"""BuildKit's API: a codec onto `model`, and a caller of `builder`."""
