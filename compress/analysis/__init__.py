"""Analyses of networks and files: size before training, differences, ablations, theory, self-tests."""
