"""The science and the storage: from a seed to a trained subnetwork to a ``.seedmask`` file and back."""
