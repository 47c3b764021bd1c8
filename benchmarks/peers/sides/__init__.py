"""The sides, each a program that runs in its own process and environment."""
