"""Figures of an export."""
