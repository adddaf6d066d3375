"""Models of the ONNX model zoo by name: a pinned table, a cache, and nothing kept that is wrong."""
