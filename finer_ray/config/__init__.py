"""The config of a job: its schema, loading it, and messages about it. No torch, no Ray."""
