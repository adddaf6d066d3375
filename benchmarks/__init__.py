"""What is claimed, measured: `python -m benchmarks` (`make bench`), and scripts of their own."""
