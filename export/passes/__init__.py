"""Passes: each rewrites a graph and leaves what it computes as it was."""
