"""What it costs to know who has what: real routers here, and thousands of nodes on paper and in virtual time."""
