"""One encoded image and what the model sees of it: headers, decoding, transform. No torch, no Ray."""
