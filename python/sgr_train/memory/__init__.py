"""What a step needs: its peak by live tensors, without a GPU or the memory; the cuts of least; what ends without it."""
