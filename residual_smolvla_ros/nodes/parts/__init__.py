"""Pieces of nodes that stand by themselves: what a node is made of, not what is started."""
