"""What one asks about networks and files: size before training, differences, ablations, theory, self-tests."""
