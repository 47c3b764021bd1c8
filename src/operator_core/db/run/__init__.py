"""The protocols of runners of units of work, and the parts that the runners of both databases share."""
