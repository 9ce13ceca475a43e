"""Exported files in onnxruntime: sessions, expansion of weights, the classifier, verification."""
