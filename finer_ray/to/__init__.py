"""An export for other tools: FiftyOne, COCO, Label Studio, and plain PNGs."""
