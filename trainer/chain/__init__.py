"""The chain rule: activations, losses, and the strategies that join dE/da with da/dz, or shortcut them."""
