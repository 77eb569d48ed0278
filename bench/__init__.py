"""Benchmarks of sgr_kernels, installed as the package sgr_bench."""
