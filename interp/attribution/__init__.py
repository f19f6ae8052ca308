"""Attribution: what the metric owes to nodes, neurons and edges. Positive = supports the answer."""
