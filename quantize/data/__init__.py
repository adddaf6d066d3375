"""Images: where they lie, how they become arrays, and which of them decide what."""
