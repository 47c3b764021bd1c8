"""Where units of work run: the protocol of runners, and what runners of both databases share."""
