"""Pictures and HTML pages: ECGs on paper, reports, and the pages of `verify`, `benchmark` and `serve`."""
