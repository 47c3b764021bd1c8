"""The sides, each a program in its own process and environment."""
