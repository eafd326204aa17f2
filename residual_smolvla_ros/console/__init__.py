"""A web page to run a session from: what it shows, the page itself, and who may open it."""
