"""Metrics of saliency maps, as pure tensor functions; torch is imported on first use."""
