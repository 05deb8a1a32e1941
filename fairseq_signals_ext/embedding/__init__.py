"""What a model's encoder makes of many recordings: vectors in a folder, their nearest neighbours, and a map of them."""
