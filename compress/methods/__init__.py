"""The methods of the literature: as settings in ``presets.py``, and what each computes in a file of its own."""
