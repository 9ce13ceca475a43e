"""From a network in memory to one ONNX file that computes the same function, and back into a session."""
