"""Measurements between machines, which are network namespaces that live as long as the run."""
