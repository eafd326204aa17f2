"""The frozen base, the residual, and their composition."""
