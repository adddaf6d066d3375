"""A complete small job that ships with the package: a trained network, its images, its YAML."""
