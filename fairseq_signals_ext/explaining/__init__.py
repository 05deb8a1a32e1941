"""Where a model looked: maps of saliency over time and leads, what occlusion costs, and whether to believe them."""
