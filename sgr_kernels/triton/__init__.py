"""Triton kernels, one file an operator. Importing a file needs triton, never a GPU."""
