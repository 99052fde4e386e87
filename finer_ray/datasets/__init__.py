"""Published data sets: one module a layout, which lists what is there; and writing the images into shards."""
