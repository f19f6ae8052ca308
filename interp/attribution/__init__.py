"""Attribution: what the metric owes to each node, neuron and edge. Positive = supports the answer."""
