"""Data sets, their splits, and batches that depend only on seed, epoch and position.

Importing this package does not import torch; most of its modules do.
"""
