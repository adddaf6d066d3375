"""The ground floor for ONNX graphs: reading, looking, rewriting. Knows no runtime."""
