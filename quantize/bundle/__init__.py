"""Release bundles: what a run leaves, packed so that anybody can prove it again.

Read in this order: `writing` (the folder and its archives), `opening` (a bundle that nobody
vouches for), `checking` (the test data again), `proving` (the verdict again). The layout is
described in docs/bundle.md.
"""
