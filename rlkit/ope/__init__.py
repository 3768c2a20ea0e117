"""Off-policy evaluation: what a policy is worth, judged by recorded episodes that it did not act in."""
