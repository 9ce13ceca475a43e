"""From scores to a mask to the effective weight of a layer, and how pruned weights are refreshed."""
