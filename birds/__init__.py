"""A procedural set of fine-grained birds, whose differing parts are known to the pixel, and a model trained on it."""
