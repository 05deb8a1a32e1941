"""One page on a recording, for a cardiologist to look at."""
