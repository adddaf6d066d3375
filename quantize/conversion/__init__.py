"""Models come in from other frameworks and other ages, and leave as the ONNX that was asked for."""
