"""Side-by-side measurements of ipkernel and its peers; ``python -m benchmarks`` runs them."""
