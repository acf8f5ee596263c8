"""One-off builders of the files in assets."""
