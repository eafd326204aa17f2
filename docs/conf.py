"""What rosdoc2 (rosdoc2.yaml) tells Sphinx of these pages."""

# So that a link such as ppo.md#what-is-refused finds its heading.
myst_heading_anchors = 4
