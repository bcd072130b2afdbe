"""Synthetic scenes with exact ground truth, and the training of the nano models on them."""
