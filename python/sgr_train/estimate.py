"""What a training step will take, before anything is allocated."""
