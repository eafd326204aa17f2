"""Results of a run as files, pictures and a page."""
