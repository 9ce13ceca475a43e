"""Files on disk: atomic writes, locks, kinds of files, and names that messages can print. Never imports torch."""
