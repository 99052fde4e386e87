"""Pairs: what an export says of each two classes of which one is compared with the other, over all images."""
